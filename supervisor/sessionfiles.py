"""The session files beside a ledger: whose they are, which are kept, and what is left of a killed supervisor's bot.

Each child leaves one, in which the kernel keeps how far it has handled its gateway sessions (`bot.sessions`). A
supervisor that has the ledger to itself also writes down which child has the sessions. If it is killed, its children
end and leave the sessions open, and the next supervisor at the same control socket finds both. An example, of a
supervisor that was killed while generation 4 was taking the sessions of generation 3:

    ledger-holder           {"control": "/run/bastion/control.sock", "generation": 3, "claims": "/run/bastion/ledger"}
    ledger-sessions-3       becomes  ledger-sessions-0, of the generation `FORMER`
    ledger-sessions-4       becomes  ledger-former-4, which is further in what generation 4 had taken
    ledger.checkpoint       stays: the state of the bot's app as generation 3 exported it last
    ledger                  moves to where our ledger is: what generations 3 and 4 have claimed is not handled again

The first child of that supervisor is told to recover what generation `FORMER` has left.

Knows files and their names. What is in a session file only children know.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from bastion.wire import (
    FORMER,
    beside_former,
    checkpoint_path,
    claimer,
    holder_path,
    sessions_path,
    stream_path,
    supervisor_of,
)
from bastion.wire.private import open_private

_MOST = 64 * 1024
"""Bytes of a holder's file that are read: it has a path and a number."""


class _Holder(msgspec.Struct):
    """Which child of the supervisor at this control socket has the sessions."""

    control: str
    generation: int
    claims: str = ""
    """The ledger in which its children claim."""


def note_holder(left: Path, *, control: Path, generation: int, claims: Path) -> None:
    """Write down that this generation has the sessions. Where that cannot be written, nothing can be taken over."""
    path, unfinished = holder_path(str(left)), f"{holder_path(str(left))}.new"
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)  # noqa: PTH108 - of a supervisor that was killed over it
        descriptor = open_private(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            noted = _Holder(control=str(control), generation=generation, claims=str(claims))
            os.write(descriptor, msgspec.json.encode(noted))
        finally:
            os.close(descriptor)
        os.rename(unfinished, path)  # noqa: PTH104


def inherit(left: Path, target: Path, *, control: Path | None, claims: Path) -> bool:
    """Take over what lies at ``left``, if a supervisor at this control socket has left it, and have it at ``target``.

    None: whichever has, for the directory is this bot's alone. What its children have claimed goes to the ledger
    ``claims``. Returns whether sessions of a bot that served are there.
    """
    holder = _holder(left)
    if holder is None or (control is not None and holder.control != str(control)):
        return False
    found = False
    with contextlib.suppress(OSError):
        for whose, file in sorted(session_files(left)):  # that of `FORMER` is first: another may take its name
            served = whose == claimer(0, holder.generation)
            if whose == claimer(0, FORMER) and not served:
                file.unlink()  # an earlier bot's: the one that served since has gone on with its sessions
                continue
            file.rename(
                sessions_path(str(target), claimer(0, FORMER)) if served else f"{beside_former(str(target))}{whose}"
            )
            found |= served
        if found and left != target:
            with contextlib.suppress(FileNotFoundError):  # its app exports nothing
                os.rename(checkpoint_path(str(left), 0), checkpoint_path(str(target), 0))  # noqa: PTH104
    if found and holder.claims:
        _move_claims(Path(holder.claims), claims)
    return found


def _move_claims(old: Path, new: Path) -> None:
    """Have the ledger of a killed supervisor's children in the place of ours. It is up to three files of SQLite's."""
    if old == new:
        return
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(OSError):  # with the children, or the machine, its directory may be gone
            os.rename(f"{old}{suffix}", f"{new}{suffix}")  # noqa: PTH104


def _holder(ledger: Path) -> _Holder | None:
    try:
        descriptor = open_private(holder_path(str(ledger)), os.O_RDONLY)
        try:
            return msgspec.json.decode(os.read(descriptor, _MOST), type=_Holder)
        finally:
            os.close(descriptor)
    except (OSError, msgspec.DecodeError):
        return None


def keep(ledger: Path, supervisor: int, generations: Collection[int]) -> None:
    """Remove the files of a supervisor's children beside the ledger, but for those of these generations."""
    kept = {claimer(supervisor, generation) for generation in generations}
    for whose, file in session_files(ledger):
        if supervisor_of(whose) == supervisor and whose not in kept:
            with contextlib.suppress(OSError):
                file.unlink()
    if supervisor == 0 and FORMER not in generations:
        for _, file in beside(ledger, Path(beside_former(str(ledger))).name):
            with contextlib.suppress(OSError):
                file.unlink()


def forget(ledger: Path, supervisor: int) -> None:
    """Remove all of them: no child is left."""
    keep(ledger, supervisor, ())
    if supervisor == 0:
        with contextlib.suppress(OSError):
            os.unlink(holder_path(str(ledger)))  # noqa: PTH108


def forget_checkpoint(ledger: Path, supervisor: int) -> None:
    """Remove the state that earlier children left beside this ledger: a new start begins without."""
    for _, file in beside(ledger, Path(checkpoint_path(str(ledger), supervisor)).name):
        with contextlib.suppress(OSError):  # of a disk that has become read-only
            file.unlink()


def session_files(ledger: Path) -> Iterator[tuple[int, Path]]:
    """Yield each session file there, with the number of the claimer who has left it."""
    yield from _numbered(ledger, sessions_path(str(ledger), 0))


def stream_files(ledger: Path) -> Iterator[tuple[int, Path]]:
    """Yield each socket there at which a bot with sessions listens, with the number of the bot that is to connect."""
    yield from _numbered(ledger, stream_path(str(ledger), 0))


def _numbered(ledger: Path, zero: str) -> Iterator[tuple[int, Path]]:
    for number, file in beside(ledger, Path(zero).name.removesuffix("0")):
        if number.isdecimal():
            yield int(number), file


def beside(ledger: Path, prefix: str) -> list[tuple[str, Path]]:
    """Return the files there whose name begins so, with the rest of that name."""
    try:
        found = list(ledger.parent.iterdir())
    except OSError:  # it is gone, or there is no descriptor left to look at it
        return []
    return [(file.name.removeprefix(prefix), file) for file in found if file.name.startswith(prefix)]
