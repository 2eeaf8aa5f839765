"""`bot.env_file`: what is read from it, and how what is wrong with it is said."""

from __future__ import annotations

import io
import os
from pathlib import Path

import dotenv
import pytest

from bastion.supervisor import env_file
from bastion.supervisor.env_file import MAX_BYTES, SHOWN
from bastion.supervisor.location import SettingsError

SECRET = "hunter2"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def read(path: Path, text: str) -> dict[str, str]:
    path.write_bytes(text.encode())
    return env_file.read(path)


def problems(path: Path, content: bytes) -> list[str]:
    """Return what is wrong, without where; the values must not be in it."""
    path.write_bytes(content)
    return problems_of(path)


def problems_of(path: Path) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        env_file.read(path)
    where = f"bot.env_file: {path}: "
    assert all(problem.startswith(where) and "\n" not in problem for problem in caught.value.problems)
    assert SECRET not in str(caught.value)
    return [problem.removeprefix(where) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("KEY=value", "value"),
        ("export KEY=value", "value"),
        ("  KEY = value  ", "value"),
        ("KEY=a value # and a comment", "a value"),
        ("KEY=a#value", "a#value"),
        ("KEY=", ""),
        ("KEY='it is # a $value\\n'", "it is # a $value\\n"),
        (r'KEY="two\nlines, \"quoted\""', 'two\nlines, "quoted"'),
        ('KEY="two\nlines"', "two\nlines"),
        ("KEY=postgres://u:p@host/db?a=b", "postgres://u:p@host/db?a=b"),
        ("KEY=ü", "ü"),
    ],
)
def test_a_value_is_what_python_dotenv_makes_of_the_line(path: Path, line: str, value: str) -> None:
    assert read(path, line) == {"KEY": value}
    assert dotenv.dotenv_values(stream=io.StringIO(line), interpolate=False) == {"KEY": value}


def test_a_dollar_stands_for_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME_OF", "ours")
    assert read(path, 'A=${HOME_OF}\nB="$HOME_OF"\n') == {"A": "${HOME_OF}", "B": "$HOME_OF"}


def test_comments_and_empty_lines_say_nothing_and_the_last_value_of_a_name_counts(path: Path) -> None:
    assert read(path, "# what it is for\n\nA=1\n\t\n  # more\nB=2\nA=3") == {"A": "3", "B": "2"}
    assert read(path, "") == {}


def test_a_file_from_windows_is_read(path: Path) -> None:
    assert read(path, "\ufeffA=1\r\n\r\nB='2'\r\n") == {"A": "1", "B": "2"}


@pytest.mark.parametrize(
    "line",
    [
        SECRET,
        f"export {SECRET}",
        f"KEY {SECRET}",
        f"={SECRET}",
        f'KEY="{SECRET}',
        f"KEY='{SECRET}' {SECRET}",
        f"two words={SECRET}",
        f"1KEY={SECRET}",
        f"'a=b'={SECRET}",
        f"KEY={SECRET}\0",
        f"KÄY={SECRET}",
    ],
)
def test_a_line_that_cannot_be_read_is_named_by_its_number_and_not_shown(path: Path, line: str) -> None:
    (problem,) = problems(path, f"A=1\n\n# x\n\n{line}\n".encode())
    assert problem.startswith("line 5: cannot be read: write KEY=value")


def test_all_lines_that_cannot_be_read_are_named_at_once(path: Path) -> None:
    found = problems(path, b"nonsense\r\nA=1\r\n\r\nmore\r\n")
    assert [problem.split(":")[0] for problem in found] == ["line 1", "line 4"]


def test_of_many_such_lines_the_first_are_named_and_the_others_counted(path: Path) -> None:
    found = problems(path, b"#!/bin/sh\n" + b"echo hello\n" * 1000)
    assert len(found) == SHOWN + 1
    assert found[0].startswith("line 2: ")
    assert found[-1] == f"{1000 - SHOWN} more lines cannot be read"


@pytest.mark.parametrize("name", ["PYTHONPATH", "PYTHONHOME", "LD_PRELOAD", "BASTION_CONFIG"])
def test_a_name_that_would_come_too_late_or_is_ours_is_refused(path: Path, name: str) -> None:
    (problem,) = problems(path, f"A=1\n{name}={SECRET}\n".encode())
    assert problem == f"line 2: {name} is not taken from here: it belongs in the unit file or on the command line"


def test_names_that_only_resemble_those_are_taken(path: Path) -> None:
    assert set(read(path, "MY_PYTHON=1\nLDAP=2\nCYTHON=3\n")) == {"MY_PYTHON", "LDAP", "CYTHON"}


class TestTheFile:
    def test_up_to_the_limit_is_read_and_more_is_not(self, path: Path) -> None:
        assert len(read(path, "A=" + "x" * (MAX_BYTES - 2))["A"]) == MAX_BYTES - 2
        assert problems(path, b"A=" + b"x" * (MAX_BYTES - 1)) == [f"larger than {MAX_BYTES} bytes"]

    def test_another_encoding_is_said_with_its_line(self, path: Path) -> None:
        assert problems(path, b"A=1\nB=\xfc\n") == ["line 2: not UTF-8 text"]

    def test_one_that_is_missing_a_directory_or_a_pipe_is_said_to_be_so(self, path: Path) -> None:
        assert problems_of(path) == ["cannot be read: No such file or directory"]
        path.mkdir()
        assert problems_of(path) == ["cannot be read: it is a directory"]
        path.rmdir()
        os.mkfifo(path)
        said = "cannot be read: it is a pipe, which could not be read a second time: name a regular file"
        assert problems_of(path) == [said]
        assert problems_of(Path("/dev/null")) == ["cannot be read: it is no regular file"]

    def test_one_that_may_not_be_read_is_said_to_be_so(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        path.touch()
        monkeypatch.setattr(os, "open", refuse)
        assert problems_of(path) == ["cannot be read: Permission denied"]
