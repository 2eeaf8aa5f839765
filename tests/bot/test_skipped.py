"""What an app leaves out that its own program does, as its source shows it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from bastion.bot.skipped import starts_when_imported
from bastion.bot.survey import skipped, told_so

GUARDED = """
bot = commands.Bot("!")

async def load():
    for name in COGS:
        await bot.load_extension(name)

async def main():
    async with aiohttp.ClientSession() as session:
        bot.session = session
        async with bot:
            await load()
            await bot.start(TOKEN)

if __name__ == "__main__":
    asyncio.run(main())
"""


def written(directory: Path, **files: str) -> Path:
    for name, source in files.items():
        path = directory / f"{name.replace('__in__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    return directory


def test_what_main_does_beside_starting_the_client_is_named_with_its_lines(tmp_path: Path) -> None:
    release = written(tmp_path, main=GUARDED)
    assert skipped(release, "main:bot") == [
        "main.py:6 bot.load_extension",
        "main.py:9 aiohttp.ClientSession",
        "main.py:10 bot.session =",
    ]
    assert told_so(release, "main:bot") == (
        'bot.app = "main:bot" leaves out what its own program does: main.py:6 bot.load_extension, '
        'main.py:9 aiohttp.ClientSession, main.py:10 bot.session =: bot.program = "main.py" runs it'
    )


START = """
bot = Bot()
async def main():
    {}
    await bot.start("t")
if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("await bot.load_extension('cogs.fun')", "bot.load_extension"),
        ("await bot.add_cog(Fun(bot))", "bot.add_cog"),
        ("bot.load_extension('cogs.fun')", "bot.load_extension"),
        ("bot.pool = await asyncpg.create_pool(DSN)", "asyncpg.create_pool"),
        ("db = await aiosqlite.connect('x')", "aiosqlite.connect"),
        ("await bot.tree.sync()", "bot.tree.sync"),
        ("await web.TCPSite(runner).start()", "web.TCPSite.start"),
        ("Thread(target=app.run).start()", "Thread"),
        ("asyncio.create_task(poll())", "asyncio.create_task"),
        ("await asyncio.gather(bot.start('t'), serve())", "asyncio.gather"),
        ("bot.started_at = now()", "bot.started_at ="),
        ("await database.prepare()", "database.prepare"),
    ],
)
def test_each_of_these_is_more_than_a_start(tmp_path: Path, statement: str, what: str) -> None:
    release = written(tmp_path, main=START.format(statement))
    assert f"main.py:4 {what}" in skipped(release, "main:bot")


@pytest.mark.parametrize(
    "source",
    [
        'bot = Bot()\nif __name__ == "__main__":\n    bot.run(TOKEN)',
        START.format("discord.utils.setup_logging()"),
        START.format("await asyncio.sleep(1)"),
        START.format("await asyncio.gather(bot.start('t'))"),
        "async def main():\n    async with bot:\n        await bot.start('t')\nbot = Bot()",
        "def create():\n    bot = Bot()\n    bot.add_cog(Fun())\n    return bot\n"
        'bot = create()\nif __name__ == "__main__":\n    bot.run()',
        "class MyBot(Bot):\n    async def setup_hook(self):\n        await self.load_extension('x')\n"
        "    def run(self):\n        '''Start it.'''\n        super().run(TOKEN)\nbot = MyBot()",
        "bot = Bot()\nasync def helper():\n    await bot.load_extension('x')",
        "bot = Bot()\n@bot.command()\nasync def reload(ctx):\n    await bot.reload_extension('x')\n",
        "bot = Bot()\nasync def main():\n    await other.start()\n    await other.load_extension('x')",
        "x = (",
    ],
)
def test_a_start_alone_is_nothing_to_be_told(tmp_path: Path, source: str) -> None:
    release = written(tmp_path, main=source)
    assert skipped(release, "main:bot") == []
    assert told_so(release, "main:bot") == ""


def test_an_app_that_is_not_there_is_nothing_to_be_told(tmp_path: Path) -> None:
    assert skipped(tmp_path, "nosuch:bot") == []


def test_what_the_function_does_that_makes_the_app_is_not_left_out(tmp_path: Path) -> None:
    source = (
        "def create():\n    bot = Bot()\n    prepare(bot)\n    return bot\ndef prepare(bot):\n    bot.add_cog(Fun())\n"
        'if __name__ == "__main__":\n    client = create()\n    client.add_cog(More())\n    client.run(TOKEN)\n'
    )
    assert skipped(written(tmp_path, main=source), "main:create") == ["main.py:9 client.add_cog"]


def test_handlers_that_main_registers_are_named(tmp_path: Path) -> None:
    source = 'bot = Bot()\ndef main():\n    @bot.event\n    async def on_ready(): ...\n    bot.run("t")\nmain.x = 1\n'
    assert skipped(written(tmp_path, main=source), "main:bot") == ["main.py:4 @bot.event"]


def test_a_run_of_the_clients_own_is_named_where_it_is(tmp_path: Path) -> None:
    source = "class MyBot(Bot):\n    def run(self):\n        self.load_cogs()\n        super().run(TOKEN)\n"
    release = written(tmp_path, core__in__bot=source, main="from core.bot import MyBot\nbot = MyBot()\n")
    assert skipped(release, "core.bot:MyBot") == ["core/bot.py:2 MyBot.run"]
    assert skipped(release, "main:bot") == ["core/bot.py:2 MyBot.run"]


@pytest.mark.parametrize(("signature", "told"), [("self", True), ("self, token", False), ("self, *args", False)])
def test_a_start_is_named_if_it_takes_no_token(tmp_path: Path, signature: str, told: bool) -> None:
    source = (
        f"class MyBot(Bot):\n    async def start({signature}):\n        await super().start(TOKEN)\nbot = MyBot()\n"
    )
    assert skipped(written(tmp_path, main=source), "main:bot") == (["main.py:2 MyBot.start"] if told else [])


@pytest.mark.parametrize(
    ("files", "app", "program"),
    [
        ({"launcher": "from bot import MyBot\n"}, "bot:MyBot", "launcher.py"),
        ({"launcher": "import bot\nMyBot = bot.MyBot\n"}, "bot:MyBot", "launcher.py"),
        ({"pkg__in____main__": "from .bot import MyBot\n"}, "pkg.bot:MyBot", "-m pkg"),
        ({"pkg__in____main__": "from pkg.bot import MyBot\n"}, "pkg.bot:MyBot", "-m pkg"),
        ({"pkg__in__start": "from . import bot\nMyBot = bot.MyBot\n"}, "pkg.bot:MyBot", "-m pkg.start"),
    ],
)
def test_a_program_in_another_file_is_seen_and_named(
    tmp_path: Path, files: dict[str, str], app: str, program: str
) -> None:
    run = "async def main():\n    async with MyBot() as bot:\n        bot.pool = 3\n        await bot.start()\n"
    module = app.partition(":")[0].replace(".", "__in__")
    (name, source), *_ = files.items()
    release = written(
        tmp_path, **{module: "class MyBot(Bot): ...\n", name: f"{source}{run}asyncio.run(main())\n", "other": "x = 1\n"}
    )
    (place,) = skipped(release, app)
    assert place.endswith("bot.pool =")
    assert told_so(release, app).endswith(f'bot.program = "{program}" runs it')


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("bot = Bot()\nbot.run('t')", 2),
        ("bot = Bot()\nif TOKEN:\n    bot.run('t')", 3),
        ("bot = Bot()\nasync def main():\n    await bot.start('t')\nasyncio.run(main())", 4),
        ("bot = Bot()\nif __name__ == '__main__':\n    bot.run('t')", None),
        ("bot = Bot()\ndef main():\n    bot.run('t')", None),
        ("bot = Bot()\nother.run('t')\nasyncio.run(prepare())", None),
    ],
)
def test_a_start_on_import_is_told_from_one_behind_a_guard(source: str, line: int | None) -> None:
    assert starts_when_imported(ast.parse(source), "bot") == line
