"""The first file of every child: finds this project's package in the release's environment, and runs the bot with it.

The supervisor starts this file by its path, with the release's interpreter. That interpreter may lack every library of
the supervisor's, so this file imports the standard library alone. Nothing of the release's runs before it. In order:

1. The launcher reads `Challenge` from the pipe: a nonce, and the number of the supervisor's protocol.
2. It looks for the package ``bastion`` and passes over packages of other projects that have the same name.
3. It answers with the nonce. The supervisor then sends the token and the content of ``bot.env_file``.
4. It puts both into the environment and calls ``bastion.bot.__main__.main``.

If no package can be found, the launcher says so over the pipe in one line and exits with 78: no second try can help.
"""

from __future__ import annotations

import sys

if not getattr(sys.flags, "safe_path", False):
    del sys.path[0]  # the supervisor's own folder: its modules must not be found as `logs` or `state`

import importlib.machinery
import importlib.util
import json
import os
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from typing import Any

EXIT_CONFIG = 78
_READ = 65536
_SIGN = os.path.join("wire", "messages.py")  # noqa: PTH118 - pathlib is not needed for anything else here
"""A file of this project's package ``bastion``. Packages of other projects do not have it."""


class LaunchError(Exception):
    """This project's package is missing, or too old, or too new. The text says what to do."""


def main(words: Sequence[str]) -> int:
    """Run one child, or a check of a release. Returns the exit code."""
    if words[:1] == ["check"]:
        return _check(words[1:])
    if len(words) < 4 or words[0] != "--read" or words[2] != "--write":
        print("this file is started by the supervisor: use `supervisor run`", file=sys.stderr)
        return 2
    read, write = int(words[1]), int(words[3])
    challenge, rest = _line(read, b"")
    try:
        find(challenge["protocol"])
    except LaunchError as error:
        _say(write, {"type": "fatal", "reason": str(error), "retryable": False})
        return EXIT_CONFIG
    _say(write, {"type": "launched", "nonce": challenge["nonce"]})
    given, rest = _line(read, rest)
    os.environ.update(given["variables"])
    from bastion.bot.__main__ import main as run

    return run(words[4:], read=read, write=write, unread=rest)


def _check(words: Sequence[str]) -> int:
    try:
        find(None)
    except LaunchError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    from bastion.bot.checking import main as check

    return int(check(words))


def find(protocol: int | None) -> None:
    """Import our package ``bastion``, wherever on the path it is. Raises `LaunchError`.

    ``protocol``: the number that it must speak; None: any.
    """
    if sys.version_info < (3, 11):  # noqa: UP036 - the release's interpreter may be any
        raise LaunchError(f"{sys.executable} is older than Python 3.11, which bastion-supervisor needs")
    foreign = []
    for spec in _candidates():
        folder = _folder(spec)
        if folder is None or not os.path.isfile(os.path.join(folder, _SIGN)):  # noqa: PTH113, PTH118
            foreign.append(spec.origin or folder or "a namespace")
            continue
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["bastion"] = module
        spec.loader.exec_module(module)
        _compare(protocol)
        return
    raise LaunchError(_missing(foreign))


def _compare(protocol: int | None) -> None:
    try:
        from bastion.wire import PROTOCOL
    except ImportError as error:
        raise LaunchError(
            f"the environment of {sys.executable} lacks what bastion-supervisor needs ({error}): install it there anew"
        ) from None
    if protocol not in (None, PROTOCOL):
        raise LaunchError(
            f"the bastion-supervisor in the environment of {sys.executable} speaks protocol {PROTOCOL}, this "
            f"supervisor {protocol}: install the supervisor's version there"
        )


def _candidates() -> Iterator[ModuleSpec]:
    """Yield the packages named ``bastion``: first the one that an import finds, then those in the path's entries."""
    try:
        found = importlib.util.find_spec("bastion")
    except (ImportError, ValueError):
        found = None
    if found is not None:
        yield found
    for entry in sys.path:
        spec = importlib.machinery.PathFinder.find_spec("bastion", [entry])
        if spec is not None:
            yield spec


def _folder(spec: ModuleSpec) -> str | None:
    return next(iter(spec.submodule_search_locations or ()), None)


def _missing(foreign: Sequence[str]) -> str:
    where = f"the environment of {sys.executable}"
    if _has_old():
        return f"{where} has an older bastion-supervisor: install the supervisor's version there"
    if foreign:
        others = ", ".join(dict.fromkeys(foreign))
        return f"{where} has no bastion-supervisor, only another package named bastion ({others}): install it there"
    return f"{where} has no bastion-supervisor: install it there"


def _has_old() -> bool:
    """Whether a release of ours is there from before the packages had the root ``bastion``."""
    spec = importlib.util.find_spec("supervisor")
    folder = _folder(spec) if spec is not None else None
    return folder is not None and os.path.isfile(os.path.join(folder, "machine.py"))  # noqa: PTH113, PTH118


def _line(file: int, rest: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the next message, and the bytes behind it. If the supervisor is gone, this process ends."""
    while b"\n" not in rest:
        data = os.read(file, _READ)
        if not data:
            sys.exit(1)
        rest += data
    line, _, rest = rest.partition(b"\n")
    message: dict[str, Any] = json.loads(line)
    return message, rest


def _say(file: int, message: dict[str, object]) -> None:
    os.write(file, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
