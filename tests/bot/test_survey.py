"""What the source of an app shows of what concerns a handoff."""

from __future__ import annotations

from pathlib import Path

import pytest

from bastion.bot.survey import ADVICE, MAX_BYTES, by_kind, survey, survey_source

WRITTEN = [
    "db = sqlite3.connect('bot.db')",
    "async with aiosqlite.connect('data/bot.db') as db: ...",
    "DATABASE = 'bot.db'\ndb = sqlite3.connect(DATABASE)",
    "with open('scores.json', 'w') as file: ...",
    "with open(f'data/{guild.id}.json', mode='r+') as file: ...",
    "with open('log/' + name, 'ab') as file: ...",
    "with open('data/{}.json'.format(name), 'x') as file: ...",
    "async with aiofiles.open('x.json', 'w') as file: ...",
    "Path('x.json').write_text(text)",
    "(DATA / 'x.json').write_bytes(data)\nDATA = Path('data')",
    "Path('x.json').open('w')",
    "HERE = Path(__file__).parent\ndb = sqlite3.connect(HERE / 'bot.db')",
    "open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'x'), 'w')",
    "sqlite3.connect(Path.cwd() / 'x.db')",
    "class Store:\n    path = 'x.json'\n    def save(self):\n        open(self.path, 'w')\n"
    "    def __init__(self):\n        self.path = 'y'",
    "handler = logging.handlers.RotatingFileHandler(filename='bot.log', maxBytes=1)",
    "logging.FileHandler('bot.log')",
    "logging.basicConfig(filename='bot.log')",
    "create_async_engine('sqlite+aiosqlite:///bot.db')",
    "shelve.open('x')",
]
NOT_WRITTEN = [
    "db = sqlite3.connect(':memory:')",
    "db = sqlite3.connect('/var/lib/bot/bot.db')",
    "db = sqlite3.connect(os.environ['DB'])",
    "db = sqlite3.connect(os.getenv('DB', 'bot.db'))",
    "db = sqlite3.connect(path)",
    "db = sqlite3.connect(Path.home() / 'x.db')",
    "db = sqlite3.connect(f'{directory}/x.db')",
    "with open('x.json') as file: ...",
    "with open('x.json', 'r') as file: ...",
    "with open('x.json', 'rb', encoding='w') as file: ...",
    "with open('/tmp/x', 'w') as file: ...",
    "with open('~/x', 'w') as file: ...",
    "with open(__name__, 'w') as file: ...",
    "create_engine('sqlite:////var/lib/bot.db')",
    "create_engine('sqlite://')",
    "create_engine('sqlite:///:memory:')",
    "logging.basicConfig(level=10)",
    "path = 'x'\npath = '/tmp/x'\nopen(path, 'w')",
    "path = path / 'x'\nopen(path, 'w')",
]
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
    ("server = http.server.ThreadingHTTPServer(('', 80), Handler)", "a server or port"),
    ("Thread(target=HTTPServer(address, Handler).serve_forever).start()", "a server or port"),
    ("app = Flask(__name__)", "a server or port"),
    ("app.run(host='0.0.0.0', port=8080)", "a server or port"),
    ("uvicorn.run(app)", "a server or port"),
    ("server = uvicorn.Server(config)", "a server or port"),
    ("prometheus_client.start_http_server(8000)", "a server or port"),
    ("from hypercorn.asyncio import serve\nawait serve(app, config)", "a server or port"),
    ("from waitress import serve\nserve(app)", "a server or port"),
    ("web.run_app(app)", "a server or port"),
    ("Popen(['x'], start_new_session=True)", "a process that is to outlive the bot"),
    ("Popen(['x'], preexec_fn=os.setsid)", "a process that is to outlive the bot"),
    ("with daemon.DaemonContext(): ...", "a process that is to outlive the bot"),
    ("os.system('nohup python worker.py &')", "a process that is to outlive the bot"),
    ("Popen(['nohup', 'x'])", "a process that is to outlive the bot"),
    ("os.execv(sys.executable, sys.argv)", "a restart of its own"),
    ("async def restart(ctx):\n    Popen([sys.executable, 'main.py'])\n    os._exit(0)", "a restart of its own"),
    (
        "async def restart(ctx):\n    subprocess.Popen([sys.executable] + sys.argv)\n    await bot.close()",
        "a restart of its own",
    ),
    *((source, "files written below the release") for source in WRITTEN),
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
        "client.run(token)",
        "serve(food)",
        "Popen(['x'], start_new_session=False)",
        "async def f():\n    Popen([sys.executable, 'worker.py'])",
        "async def f():\n    Popen(['git', 'pull'])\n    sys.exit(0)",
        *NOT_WRITTEN,
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
