"""Two local users: one runs the product, the other one tries to silence, double, read or stop what it does."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from ordeal import pid
from other_user import Other, other_user, python_for_all
from rig import ALL_KINDS, Rig, rig
from test_handoff import assert_clean, settings, verdict

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.getuid() != 0, reason="only root can start processes of two other users"),
]

PRODUCT, OTHER = 12345, 65534
LEDGER = "claims.sqlite3"


@dataclass
class Machine:
    """Two users and a directory in which both may make files, as in /dev/shm."""

    rig: Rig
    shared: Path
    other: Other

    @property
    def own(self) -> Path:
        """The product's own directory in the shared one."""
        return self.shared / f"bastion-{PRODUCT}"


@asynccontextmanager
async def machine(*, tries_as: int = OTHER, **options: object) -> AsyncIterator[Machine]:
    found = python_for_all()
    if found is None:
        pytest.skip("no interpreter here that other users may run finds the product: they may not enter its directory")
    python, environ = found
    base = Path(tempfile.mkdtemp(prefix="bastion-users-", dir="/dev/shm"))
    try:
        home, shared = base / "home", base / "shared"
        for made in (home, shared):
            made.mkdir()
        base.chmod(0o755)
        shared.chmod(0o1777)
        os.chown(home, PRODUCT, PRODUCT)
        home.chmod(0o700)
        ledger = {"ledger__path": str(shared / LEDGER)}
        async with rig(
            home, app="sharded_bot:client", settings=settings(), handler_ms="0-100", **ledger | options
        ) as made:
            made.python, made.user, made.cwd = python, PRODUCT, home
            made.environ |= environ
            async with other_user(tries_as, python=python, environ=environ) as other:
                yield Machine(made, shared, other)
    finally:
        shutil.rmtree(base)


async def refused(made: Rig, words: str) -> None:
    """Assert that a start, a check and a check --deploy are refused with these words."""
    await made.start(serving=False)
    assert await made.stopped() == 78, made.tail()
    assert f"ledger.path: {words}" in made.tail()
    for options in ([], ["--deploy"]):
        checked = await made.command("check", *options)
        assert checked.code == 78
        assert words in checked.out


async def test_a_start_in_a_place_that_another_user_has_prepared_is_refused_by_name() -> None:
    async with machine() as here:
        await here.other.does("directory", here.own, 0o777)
        await refused(here.rig, f"{here.own} belongs to uid {OTHER}: remove it")


@pytest.mark.wide
@pytest.mark.parametrize(("deed", "said"), [("symlink", "is not a directory"), ("fifo", "is not a directory")])
async def test_so_is_one_in_which_a_link_or_a_pipe_was_prepared(deed: str, said: str) -> None:
    async with machine() as here:
        await here.other.does("directory", here.shared / "theirs", 0o777)
        await here.other.does(deed, here.own, *([here.shared / "theirs"] if deed == "symlink" else []))
        await refused(here.rig, f"{here.own} {said}")


@pytest.mark.wide
@pytest.mark.parametrize("mode", [0o777, 0o755])
async def test_so_is_one_in_a_directory_of_another_users(mode: int) -> None:
    async with machine() as here:
        theirs = here.shared / "theirs"
        await here.other.does("directory", theirs, mode)
        here.rig.configure(ledger__path=str(theirs / LEDGER))
        await refused(here.rig, f"{theirs} belongs to uid {OTHER}")


@pytest.mark.wide
async def test_another_users_socket_at_the_default_path_is_neither_asked_nor_replaced() -> None:
    async with machine(control__socket="") as here:
        here.rig.environ["TMPDIR"] = str(here.shared)
        await here.other.does("directory", here.own, 0o755)
        await here.other.does("listen", here.own / "supervisor.sock")
        for command in ("status", "reload", "stop"):
            asked = await here.rig.command(command)
            assert asked.code == 3, asked
            assert f"{here.own} belongs to uid {OTHER}" in asked.err
            assert "supervisor run" not in asked.err
        await here.rig.start(serving=False)
        assert await here.rig.stopped() == 78
        assert f"{here.own} belongs to uid {OTHER}" in here.rig.tail()


@pytest.mark.wide
async def test_whatever_another_user_tries_meanwhile_loses_and_doubles_no_event() -> None:
    async with machine() as here:
        await here.other.does("silence", here.shared / LEDGER)
        await here.rig.start()
        here.rig.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        await here.other.does("lock", here.shared)
        for turn in range(2):
            assert (await here.rig.reload())["result"] == "succeeded", here.rig.tail()
            assert not await attacked(here, generation=turn + 2)
        assert_clean(await verdict(here.rig, at_least=300), here.rig, at_least=300)
        assert await here.rig.stop() == 0, here.rig.tail()


@pytest.mark.wide
async def test_the_same_deeds_work_for_the_products_own_user() -> None:
    """Whoever runs as the bot's user can do all of it, and the tests above would see it."""
    async with machine(tries_as=PRODUCT) as here:
        await here.rig.start()
        worked = await attacked(here, generation=1)
        assert worked >= {"enter", "lock", "connect", "read environ", "read fd", "signal", f"link {LEDGER}"}


@pytest.mark.wide
def test_in_a_user_namespace_without_root_the_machines_own_directories_are_no_strangers() -> None:
    found = python_for_all()
    if found is None or shutil.which("unshare") is None:
        pytest.skip("no interpreter here that other users may run finds the product, or there is no unshare")
    python, environ = found
    look = "from pathlib import Path; from bastion.supervisor.private import danger; print(danger(Path('/dev/shm')))"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", python, "-c", look],
        env=environ,
        cwd="/",
        user=PRODUCT,
        group=PRODUCT,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr:
        pytest.skip(f"no user namespace can be made here: {done.stderr.strip()}")
    assert done.stdout == "None\n", done.stderr


async def attacked(here: Machine, *, generation: int) -> set[str]:
    """Have the other user try everything on the product's processes and files; return what worked."""
    assert here.rig.process is not None
    tried = {
        "enter": await here.other.tries("enter", here.own),
        "lock": await here.other.tries("lock", here.own),
        "connect": await here.other.tries("connect", here.rig.directory / "s.sock"),
        "lock of the socket": await here.other.tries("lock", here.rig.directory / "s.sock.lock"),
    }
    for number in (here.rig.process.pid, pid(here.rig, generation)):
        tried |= {
            "read environ": await here.other.tries("read", f"/proc/{number}/environ"),
            "read memory": await here.other.tries("read", f"/proc/{number}/mem"),
            "read fd": await here.other.tries("enter", f"/proc/{number}/fd"),
            "signal": await here.other.tries("signal", number, 0),
            "trace": await here.other.tries("trace", number),
        }
    for deed in ("link", "rename"):
        for path in (here.own, here.own / LEDGER):
            tried[f"{deed} {path.name}"] = await here.other.tries(deed, path)
    return {name for name, said in tried.items() if said == "done"}
