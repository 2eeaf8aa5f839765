"""The earlier import names, for one version more: `bot`, `supervisor` and `sandbox` are `bastion`'s now.

Any other module of such a name wins, wherever it is: a module or package of the user's, a folder without `__init__.py`,
an editable install, supervisord's `supervisor`. The finder here is asked only when an import would fail otherwise. The
importer gets the very module of `bastion`, not a second one, and one warning for each of the three names.

A `.pth` file installs the finder at the start of each interpreter, or `python -m supervisor` would find nothing. So
this module imports `sys` alone. It is no part of the package `bastion`: a user's own `bastion.py` on PYTHONPATH must
not run at each start.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` would take longer to import than all the rest
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType

OLD_NAMES = ("bot", "supervisor", "sandbox")
_CONFIGURATION = 78
"""The exit code of a child that no second try can help."""
_OLD_SUPERVISOR = (
    "this release has a newer bastion-supervisor than the running supervisor: install the newer one for the "
    "supervisor too, and restart the supervisor once"
)


def install() -> None:
    """Have the old names found from now on, after everybody else's. A second call changes nothing."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())


def stand_for(name: str) -> None:
    """Have this old name, imported from the folder at the top of a checkout, mean what it means elsewhere.

    The folder's modules would be loaded a second time, and a second `lifecycle` would never learn its role.
    """
    from importlib import import_module

    _warn(name, stacklevel=4)
    _find_below()
    sys.modules[name] = import_module(f"bastion.{name}")


class OldNames:
    """Finds `bot`, `supervisor` and `sandbox` if no other finder does."""

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Return what `bastion` has under that name, unless another finder knows a module of that name."""
        if name not in OLD_NAMES or self._is_found_later(name) or not _is_ours():
            return None
        _find_below()
        return _alias(name)

    def _is_found_later(self, name: str) -> bool:
        later = sys.meta_path[sys.meta_path.index(self) + 1 :]  # editable installs append finders of their own
        return any(finder.find_spec(name, None) is not None for finder in later)


class _Below:
    """Finds `bot.lifecycle` and all else below an old name that is ours.

    It comes first: from the package's `__path__` the usual finder would load each module a second time.
    """

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        root, below, _ = name.partition(".")
        if not below or root not in OLD_NAMES or root not in sys.modules:
            return None
        return _alias(name) if sys.modules[root] is sys.modules.get(f"bastion.{root}") else None


class _Alias:
    """Loads a module of `bastion` under its old name."""

    def __init__(self, real: "ModuleSpec") -> None:
        self._real = real

    def create_module(self, spec: "ModuleSpec") -> "ModuleType":
        from importlib import import_module

        if spec.name in OLD_NAMES:
            _warn(spec.name, stacklevel=3)
        return import_module(self._real.name)

    def exec_module(self, module: "ModuleType") -> None:
        """Undo what importing has changed. The module itself ran when it was imported under its own name."""
        module.__spec__ = self._real

    def get_code(self, name: str) -> "CodeType | None":
        """Return what ``python -m bot`` runs. A child of an earlier supervisor ends here, with a reason."""
        from importlib.abc import InspectLoader

        if name == "bot.__main__" and "--app" in sys.argv and "sync" not in sys.argv[1:2]:
            print(_OLD_SUPERVISOR, file=sys.stderr)
            sys.exit(_CONFIGURATION)
        assert isinstance(self._real.loader, InspectLoader)
        return self._real.loader.get_code(self._real.name)


def _find_below() -> None:
    if not any(isinstance(finder, _Below) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Below())


def _alias(name: str) -> "ModuleSpec | None":
    from importlib.machinery import ModuleSpec
    from importlib.util import find_spec

    real = find_spec(f"bastion.{name}")
    if real is None:
        return None
    # `python -m sandbox` has `bastion.sandbox.__main__` as its __main__: processes spawned from it find that too.
    spec = ModuleSpec(real.name if name.endswith(".__main__") else name, _Alias(real), origin=real.origin)
    spec.submodule_search_locations = real.submodule_search_locations
    return spec


def _is_ours() -> bool:
    """Say whether `bastion` is the package beside this file. A user's own is not executed for the answer."""
    from importlib.util import find_spec
    from pathlib import Path

    try:
        found = find_spec("bastion")
    except ValueError:  # a module that somebody made by hand
        return False
    ours = Path(__file__).with_name("bastion") / "__init__.py"
    return found is not None and found.origin is not None and Path(found.origin).resolve() == ours.resolve()


def _warn(name: str, *, stacklevel: int) -> None:
    """Warn, and name the line of the import; Python does not count its own frames between."""
    from warnings import warn

    lifecycle = " (for `lifecycle`: `from bastion import lifecycle`)" if name == "bot" else ""
    text = (
        f"the package `{name}` of bastion-supervisor is called `bastion.{name}` now{lifecycle}: write that in imports, "
        f"in bot.app and after `python -m`. The next version does not know `{name}`."
    )
    warn(text, FutureWarning, stacklevel=stacklevel)
