"""Directories and files are ours only if nobody else can have prepared, or can replace, what is there."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from bastion.supervisor import private
from bastion.supervisor.private import UnsafeError, danger, own_directory
from bastion.wire.private import ForeignFileError, open_private

STRANGER = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "around" / "place"
    directory.mkdir(parents=True)
    directory.parent.chmod(0o755)
    directory.chmod(0o755)
    return directory


def given(path: Path, *, uid: int = STRANGER) -> None:
    os.chown(path, uid, uid, follow_symlinks=False)


# --- directories --------------------------------------------------------------------------------------------------


def test_a_directory_that_is_ours_alone_is_used_itself(place: Path) -> None:
    place.chmod(0o700)
    assert own_directory(place) == place


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o711, 0o1777])
def test_one_that_others_may_enter_gets_a_subdirectory_that_they_may_not(place: Path, mode: int) -> None:
    place.chmod(mode)
    own = own_directory(place)
    assert (own, own.exists()) == (place / f"bastion-{os.getuid()}", False)
    private.make(own)
    private.make(own)
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert own_directory(place) == own, "whoever comes next finds the same"


@pytest.mark.parametrize("mode", [0o777, 0o707])
@pytest.mark.parametrize("which", ["around", "place"])
def test_one_that_others_may_write_to_is_refused_wherever_it_is_on_the_way(place: Path, which: str, mode: int) -> None:
    wide = place if which == "place" else place.parent
    wide.chmod(mode)
    with pytest.raises(UnsafeError, match=rf"replace what is in {wide} \(mode {mode:04o}\): choose"):
        own_directory(place)


@as_root
@pytest.mark.parametrize("which", ["around", "place"])
def test_another_users_is_refused_wherever_it_is_on_the_way(place: Path, which: str) -> None:
    given(whose := place if which == "place" else place.parent)
    with pytest.raises(UnsafeError, match=f"{whose} belongs to uid {STRANGER}"):
        own_directory(place)


@as_root
def test_a_group_of_others_may_not_write_but_a_group_of_roots_may(place: Path) -> None:
    place.chmod(0o775)
    assert danger(place) is None
    os.chown(place, -1, STRANGER)
    assert "mode 0775" in (danger(place) or "")


@as_root
def test_a_group_that_bears_its_owners_name_and_has_no_other_member_is_no_other(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.chmod(0o775)
    os.chown(place, -1, STRANGER)
    user = pwd.struct_passwd(("me", "x", os.getuid(), STRANGER, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: user)
    for name, members, refused in (("me", [], False), ("me", ["me"], False), ("me", ["you"], True), ("all", [], True)):
        group = grp.struct_group((name, "x", STRANGER, members))
        monkeypatch.setattr(grp, "getgrgid", lambda _, group=group: group)
        assert (danger(place) is not None) == refused


def prepared_link(own: Path) -> None:
    own.symlink_to(own.parent.parent)


def prepared_file(own: Path) -> None:
    own.touch()


def prepared_wide(own: Path) -> None:
    own.mkdir()
    own.chmod(0o777)


def prepared_by_another(own: Path) -> None:
    own.mkdir(mode=0o700)
    given(own)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (prepared_link, "is not a directory"),
        (prepared_file, "is not a directory"),
        (prepared_wide, "is open to other users"),
        pytest.param(prepared_by_another, f"belongs to uid {STRANGER}", marks=as_root),
    ],
)
def test_a_subdirectory_that_somebody_has_prepared_is_refused(
    place: Path, prepare: Callable[[Path], None], said: str
) -> None:
    own = own_directory(place)
    prepare(own)
    for use in (own_directory, lambda _: private.make(own)):
        with pytest.raises(UnsafeError, match=f"{own} {said}"):
            use(place)


def test_links_on_the_way_are_followed_as_the_kernel_does_it(place: Path, tmp_path: Path) -> None:
    place.chmod(0o700)
    (tmp_path / "relative").symlink_to("around/../around")
    (tmp_path / "absolute").symlink_to(tmp_path / "relative")
    assert own_directory(tmp_path / "absolute" / "place") == place
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OSError, match="symbolic links"):
        own_directory(tmp_path / "round")


@as_root
def test_a_link_of_another_users_is_not_followed(place: Path, tmp_path: Path) -> None:
    place.chmod(0o700)
    link = tmp_path / "link"
    link.symlink_to(place)
    given(link)
    with pytest.raises(UnsafeError, match=f"{link} belongs to uid {STRANGER}"):
        own_directory(link)


@as_root
def test_a_link_leads_through_directories_of_which_each_must_be_safe(place: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(place)
    given(place.parent)
    with pytest.raises(UnsafeError, match=f"{place.parent} belongs"):
        own_directory(tmp_path / "link")


@as_root
def test_who_is_believed_is_not_where_anybody_may_make_a_directory(place: Path) -> None:
    given(place)
    assert danger(place, believed=frozenset({STRANGER})) is None
    place.parent.chmod(0o1777)
    assert f"{place} belongs to uid {STRANGER}" in (danger(place, believed=frozenset({STRANGER})) or "")


# --- files --------------------------------------------------------------------------------------------------------


def linked(path: Path) -> None:
    path.with_name("target").touch()
    path.symlink_to("target")


def twice(path: Path) -> None:
    path.touch()
    path.with_name("other").hardlink_to(path)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def anothers(path: Path) -> None:
    path.touch()
    given(path)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_CREAT])
@pytest.mark.parametrize("prepare", [linked, twice, a_pipe, pytest.param(anothers, marks=as_root)])
def test_a_file_that_another_user_may_have_prepared_is_not_opened(
    tmp_path: Path, prepare: Callable[[Path], None], flags: int
) -> None:
    path = tmp_path / "file"
    prepare(path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError) as caught:
        open_private(path, flags)
    assert isinstance(caught.value, ForeignFileError) or prepare is linked
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_that_is_made_is_for_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    os.close(open_private(path, os.O_RDWR | os.O_CREAT))
    os.close(open_private(path, os.O_RDONLY))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
