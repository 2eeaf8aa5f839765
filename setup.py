"""Puts one more file into a wheel: the `.pth` by which the earlier import names are found for one version more.

All else is in pyproject.toml. The next version does without this file, src/bastion_old_names.py and
src/bastion/old_names.py.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PTH = "bastion_old_names.pth"
# One line, as a .pth wants it. Where the module is gone, by hand or for a moment of an upgrade, nothing is said.
LINE = r'import sys; exec("try: import bastion_old_names as names; names.install()\nexcept ImportError: pass")'


class BuildWithOldNames(build_py):
    """Builds the modules and writes the `.pth` beside them; an editable install has none."""

    def run(self) -> None:
        """Build, from nothing: what an earlier version has left here would be packed too, its `supervisor` as well."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        if not self.editable_mode:
            Path(self.build_lib, PTH).write_text(f"{LINE}\n", encoding="utf-8")


setup(cmdclass={"build_py": BuildWithOldNames})
