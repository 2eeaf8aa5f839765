"""Puts one more file into a wheel: the `.pth` by which the old import names are found for one version more.

All else is in pyproject.toml. The next version does without this file, src/bastion_old_names.py and
src/bastion/old_names.py.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

NAME = "bastion_old_names"


class BuildWithOldNames(build_py):
    """Builds the modules and writes the `.pth` beside them; an editable install has none."""

    def run(self) -> None:
        """Build, from nothing: what an earlier version has left here would be packed too, its `supervisor` as well."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        if not self.editable_mode:
            Path(self.build_lib, f"{NAME}.pth").write_text(f"import {NAME}; {NAME}.install()\n", encoding="utf-8")


setup(cmdclass={"build_py": BuildWithOldNames})
