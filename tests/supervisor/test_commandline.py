"""What a process is called, and whether it is the bot once more, is read from its command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bastion.supervisor.commandline import named, runs


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["/usr/bin/ffmpeg", "-i", "http://user:password@host/"], "ffmpeg"),
        (["/usr/bin/python3", "-u", "/srv/bot/main.py", "--token", "secret"], "python3 main.py"),
        (["python3.11", "-W", "error", "main.py"], "python3.11 main.py"),
        (["python3", "-m", "mybot", "secret"], "python3 -m mybot"),
        (["python3", "-c", "print('secret')"], "python3 -c"),
        (["python3", "-c", "from multiprocessing.spawn import spawn_main; ..."], "python3 multiprocessing.spawn"),
        (["python3", "-"], "python3"),
        (["python3"], "python3"),
        ([], "a process"),
    ],
)
def test_a_name_has_no_arguments(words: list[str], name: str) -> None:
    assert named(words) == name


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("main.py", ["python3", "main.py"]),
        ("main.py", ["/venv/bin/python", "-u", "/srv/bot/main.py", "restarted"]),
        ("main.py", ["pypy3", "../bot/./main.py"]),
        ("src/main.py", ["python3", "src/main.py"]),
        ("-m mybot", ["python3", "-m", "mybot"]),
        ("-m mybot", ["python3", "/srv/bot/mybot/__main__.py"]),
        ("-m mybot", ["python3", "mybot"]),
        ("main:bot", ["python3", "main.py"]),
        ("mybot.main:create", ["python3", "mybot/main.py"]),
        ("mybot.main:create", ["python3", "-m", "mybot.main"]),
    ],
)
def test_a_copy_of_the_program_is_one_however_it_is_called(entry: str, words: list[str]) -> None:
    assert runs(words, "/srv/bot", entry=entry, directory=Path("/srv/bot"))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("main.py", ["python3", "worker.py"]),
        ("main.py", ["python3", "/other/main.py"]),
        ("main.py", ["python3", "-c", "main.py"]),
        ("main.py", ["python3", "-m", "main.py"]),
        ("main.py", ["cat", "main.py"]),
        ("main.py", ["python3"]),
        ("main.py", []),
        ("-m mybot", ["python3", "-m", "mybot.worker"]),
        ("-m mybot", ["python3", "-m", "other"]),
        ("main:bot", ["python3", "bot.py"]),
    ],
)
def test_another_program_is_no_copy(entry: str, words: list[str]) -> None:
    assert not runs(words, "/srv/bot", entry=entry, directory=Path("/srv/bot"))
