"""What the source of an app shows of what concerns a handoff."""

from __future__ import annotations

from pathlib import Path

import pytest

from bastion.bot.survey import ADVICE, MAX_BYTES, by_kind, survey, survey_source

SOURCES = [
    ("@tasks.loop(seconds=1)\nasync def tick(self): ...", "loops"),
    ("@discord.ext.tasks.loop(time=x)\nasync def tick(self): ...", "loops"),
    ("@in_step\n@tasks.loop(hours=1)\nasync def tick(self): ...", "loops"),
    ("@tasks.loop(hours=1)\n@lifecycle.in_step\nasync def tick(self): ...", "loops"),
    ("@tasks.loop(hours=1)\nasync def tick(): ...\nin_step(tick)", "loops"),
    ("@tasks.loop(hours=1)\nasync def tick(): ...\ntick.coro.in_step = True", "loops"),
    ("@tasks.loop(seconds=5, count=9, name='x')\nasync def tick(self): ...", "loops"),
    ("@tasks.loop()\nasync def tick(self): ...", "loops"),
    ("@tasks.loop(seconds=5.5)\nasync def tick(self): ...", "loops of more than 5 s"),
    ("@tasks.loop(minutes=1)\nasync def tick(self): ...\nin_step(other)", "loops of more than 5 s"),
    ("@tasks.loop(hours=HOURS)\nasync def tick(self): ...", "loops of more than 5 s"),
    ("@tasks.loop(**PACE)\nasync def tick(self): ...", "loops of more than 5 s"),
    ("class Panel(discord.ui.View):\n    pass", "timed views"),
    ("view = discord.ui.View()", "timed views"),
    (
        "class Panel(View):\n    def __init__(self):\n        super().__init__(timeout=None)",
        "persistent views",
    ),
    ("class More(discord.ui.DynamicItem[Button], template='x'): ...", "persistent views"),
    ("bot.add_view(Panel())", "persistent views"),
    ("await bot.wait_for('message')", "wait_for"),
    ("await self.tree.sync(guild=guild)", "command sync"),
    ("class B(Client):\n    async def export_state(self): ...", "export_state"),
    ("client.import_state = load", "import_state"),
    ("@bot.event\nasync def on_activate(): ...", "on_activate"),
    ("async def on_deactivate(self): ...", "on_deactivate"),
    ("async def setup_hook(self):\n    self.loop.create_task(self.run())", "tasks of its own"),
    ("async def on_ready():\n    asyncio.create_task(run())", "tasks of its own"),
    ("await ctx.author.voice.channel.connect()", "voice"),
    ("site = web.TCPSite(runner, port=80)", "a server or port"),
    ("import sqlite3", "a database"),
    ("from sqlalchemy.orm import Session", "a database"),
    ("fcntl.flock(file, fcntl.LOCK_EX)", "a lock"),
]


@pytest.mark.parametrize(("source", "what"), SOURCES)
def test_it_is_found_once_and_there_is_advice(source: str, what: str) -> None:
    (found,) = {finding.what for finding in survey_source(source, file="app.py")}
    assert found == what
    assert ADVICE[what]


def test_each_advice_can_be_given() -> None:
    assert {what for _, what in SOURCES} == set(ADVICE)


@pytest.mark.parametrize(
    "source",
    [
        "await asyncio.wait_for(x, 1)",
        "view = View(timeout=None)",
        "os.sync()",
        "db = await pool.connect()",
        "async def later():\n    asyncio.create_task(run())",
        "@app.loop()\nasync def f(): ...",
        "def (",
        "\x00",
        "",
    ],
)
def test_what_only_looks_like_it_is_not_found(source: str) -> None:
    assert survey_source(source, file="app.py") == []


def test_a_release_is_read_without_what_is_not_its_own(tmp_path: Path) -> None:
    for name in (
        "main.py",
        "cogs/fun.py",
        ".venv/lib/x.py",
        "venv/x.py",
        "tests/x.py",
        "node_modules/x.py",
        "notes.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import sqlite3\nawait bot.wait_for('x')\n")
    (tmp_path / "large.py").write_text("import sqlite3\n" + "#" * MAX_BYTES)
    (tmp_path / "latin.py").write_bytes(b"# \xe9\nimport sqlite3\n")
    assert by_kind(survey(tmp_path)) == {
        "wait_for": ["cogs/fun.py:2", "main.py:2"],
        "a database": ["cogs/fun.py:1", "main.py:1"],
    }
