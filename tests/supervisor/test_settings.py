"""bastion.toml and the environment: what is found, what is allowed, and how what is wrong is said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bastion.supervisor.entry import Named
from bastion.supervisor.location import locate_socket
from bastion.supervisor.settings import Settings, SettingsError, load, refreshed

TOKEN = "MTA0NzI5.Gx7aB1.dGhpcyBpcyBub3QgYSByZWFsIHRva2VuIGF0IGFsbA"
ENVIRON = {"DISCORD_TOKEN": TOKEN}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file's path in an empty directory, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "bastion.toml"


def read(config: Path, text: str, **environ: str) -> Settings:
    config.write_text(text)
    return load(config, environ=ENVIRON | environ)


def problems(config: Path, text: str, **environ: str) -> tuple[str, ...]:
    config.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(config, environ=ENVIRON | environ)
    assert all("\n" not in problem for problem in caught.value.problems)
    return caught.value.problems


def test_without_a_file_the_defaults_of_the_contract_hold(config: Path) -> None:
    found = load(None, environ=ENVIRON)
    assert (found.bot.app, found.bot.directory, found.bot.python) == ("", config.parent, "")
    assert (found.bot.program, found.bot.env_file, found.environment) == ("", None, {})
    assert (found.bot.shards, found.bot.args) == ("auto", ())
    assert found.bot.expired_text == "This control is from before an update. Please run the command again."
    assert (found.discord.api_url, found.discord.token_file) == ("https://discord.com/api/v10", None)
    assert found.discord.identify_window == 5.0
    handoff = found.handoff
    assert (handoff.ready_timeout, handoff.drain_timeout, handoff.headroom) == (300, 30, 1.2)
    assert (handoff.probation, handoff.linger) == (15, 180)
    restart = found.restart
    assert (restart.hang_timeout, restart.spare) == (20, False)
    assert (restart.backoff_first, restart.backoff_max, restart.stable_after) == (1.0, 60.0, 60)
    assert (found.ledger.path, found.health.listen, found.source) == (None, "127.0.0.1:9194", None)


def test_every_key_can_be_set(config: Path) -> None:
    found = read(
        config,
        """
        [bot]
        app = "my.bot:factory.create"
        directory = "current"
        python = ".venv/bin/python"
        shards = 16
        args = ["--fast", "ü"]
        expired_text = ""
        [discord]
        api_url = "http://127.0.0.1:8000/api/v10/"
        token_file = "token"
        identify_window = 0.25
        [handoff]
        ready_timeout = 1
        drain_timeout = 2
        settle = 3
        headroom = 1
        probation = 0.5
        [restart]
        backoff_first = 0.5
        backoff_max = 2
        stable_after = 4
        hang_timeout = 3
        spare = true
        [ledger]
        path = "claims"
        [control]
        socket = "run/s.sock"
        [health]
        listen = "[::1]:0"
        """,
    )
    base = config.parent
    assert found.bot.directory == base / "current"
    assert found.bot.python == str(base / ".venv/bin/python")
    assert (found.bot.app, found.bot.shards, found.bot.args) == ("my.bot:factory.create", 16, ("--fast", "ü"))
    assert found.bot.expired_text == ""
    assert (found.discord.api_url, found.discord.token_file) == ("http://127.0.0.1:8000/api/v10", base / "token")
    assert (found.handoff.ready_timeout, found.handoff.headroom, found.restart.stable_after) == (1.0, 1.0, 4.0)
    assert (found.handoff.probation, found.restart.hang_timeout, found.restart.spare) == (0.5, 3.0, True)
    assert (found.ledger.path, found.control.socket) == (base / "claims", base / "run/s.sock")
    assert (found.health.listen, found.source) == ("[::1]:0", config)


def test_an_interpreter_without_a_slash_is_left_to_the_path(config: Path) -> None:
    assert read(config, '[bot]\npython = "python3.12"').bot.python == "python3.12"


def test_a_symlinked_directory_stays_a_link_until_it_is_spawned(config: Path) -> None:
    (config.parent / "42").mkdir()
    (config.parent / "current").symlink_to("42")
    assert read(config, '[bot]\ndirectory = "current"').bot.directory == config.parent / "current"


class TestWhereTheFileIs:
    def test_the_option_wins_over_the_environment_and_that_over_the_directory(self, config: Path) -> None:
        option, named = config.parent / "a.toml", config.parent / "b.toml"
        for number, path in enumerate([option, named, config], 1):
            path.write_text(f"[bot]\nshards = {number}")
        environ = ENVIRON | {"BASTION_CONFIG": "b.toml"}
        assert load(Path("a.toml"), environ=environ).bot.shards == 1
        assert load(None, environ=environ).bot.shards == 2
        assert load(None, environ=environ).source == named
        assert load(None, environ=ENVIRON).bot.shards == 3

    def test_one_that_was_asked_for_and_is_missing_is_an_error(self, config: Path) -> None:
        config.write_text("")
        with pytest.raises(SettingsError, match=r"nope\.toml: no such file \(named by --config\)"):
            load(Path("nope.toml"), environ=ENVIRON)
        with pytest.raises(SettingsError, match=r"nope\.toml: no such file \(named by \$BASTION_CONFIG\)"):
            load(None, environ=ENVIRON | {"BASTION_CONFIG": "nope.toml"})

    def test_a_directory_in_its_place_is_an_error(self, config: Path) -> None:
        config.mkdir()
        with pytest.raises(SettingsError, match=r"bastion\.toml: cannot be read: it is a directory"):
            load(None, environ=ENVIRON)

    def test_a_working_directory_that_was_removed_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        with pytest.raises(SettingsError, match="current directory no longer exists"):
            load(None, environ=ENVIRON)
        monkeypatch.chdir(tmp_path)


class TestWhatIsWrong:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[bot]\nshards = 0", 'bot.shards = 0: allowed is "auto", or a whole number from 1'),
            ("[bot]\nshards = true", "bot.shards = true: allowed is"),
            ('[bot]\nshards = "many"', "bot.shards = 'many': allowed is"),
            ("[bot]\nshards = 2.0", "bot.shards = 2.0: allowed is"),
            ('[bot]\napp = "mybot"', "bot.app = 'mybot': allowed is \"module:attribute\""),
            ('[bot]\napp = "my-bot:run"', "bot.app = 'my-bot:run': allowed is"),
            ("[bot]\napp = 3", "bot.app = 3: allowed is"),
            ("[bot]\nprogram = 3", "bot.program = 3: allowed is"),
            ('[bot]\nprogram = "-m"', "bot.program = '-m': allowed is a file such as \"main.py\", or a module such as"),
            ('[bot]\nprogram = "-m my-bot"', "bot.program = '-m my-bot': allowed is"),
            ('[bot]\nprogram = "-m mybot --fast"', "bot.program = '-m mybot --fast': allowed is"),
            ('[bot]\nprogram = "-mmybot"', "bot.program = '-mmybot': allowed is"),
            ('[bot]\nprogram = "-O main.py"', "bot.program = '-O main.py': allowed is"),
            ("[bot]\nenv_file = []", "bot.env_file = []: allowed is a path"),
            ('[bot]\ndirectory = "a\\u0000b"', "bot.directory = 'a\\x00b': allowed is a path"),
            ('[bot]\nargs = "one"', "bot.args = 'one': allowed is a list of texts"),
            ("[bot]\nexpired_text = 3", "bot.expired_text = 3: allowed is a text of at most 2000 characters"),
            (f'[bot]\nexpired_text = "{"x" * 2001}"', "bot.expired_text = 'xxx"),
            ("[bot]\nargs = [1]", "bot.args = [1]: allowed is a list of texts"),
            ('[discord]\napi_url = "discord.com"', "discord.api_url = 'discord.com': allowed is the base of an HTTP"),
            ('[discord]\napi_url = "http://[::1"', "discord.api_url = 'http://[::1': allowed is"),
            ('[discord]\napi_url = "http://a:99999"', "discord.api_url = 'http://a:99999': allowed is"),
            ("[handoff]\nready_timeout = 0", "handoff.ready_timeout = 0: allowed is a number of seconds above 0"),
            ("[handoff]\nsettle = -1.5", "handoff.settle = -1.5: allowed is"),
            ("[handoff]\nsettle = nan", "handoff.settle = nan: allowed is"),
            ("[handoff]\nsettle = inf", "handoff.settle = inf: allowed is"),
            ('[handoff]\ndrain_timeout = "30s"', "handoff.drain_timeout = '30s': allowed is"),
            ("[handoff]\nheadroom = 0.9", "handoff.headroom = 0.9: allowed is a factor from 1 to 100"),
            ("[handoff]\nprobation = -1", "handoff.probation = -1: allowed is a number of seconds from 0 (none)"),
            ("[restart]\nhang_timeout = 2", "restart.hang_timeout = 2: allowed is a number of seconds from 3 to"),
            ('[restart]\nspare = "yes"', "restart.spare = 'yes': allowed is true or false"),
            ("[restart]\nbackoff_first = 61", "restart.backoff_first = 61.0: allowed is at most restart.backoff_max"),
            ('[health]\nlisten = "8080"', "health.listen = '8080': allowed is \"host:port\""),
            ('[health]\nlisten = "host:70000"', "health.listen = 'host:70000': allowed is"),
            ('[health]\nlisten = "unix:"', "health.listen = 'unix:': allowed is"),
            ("[control]\nsocket = 1979-05-27", "control.socket = datetime.date(1979, 5, 27): allowed is"),
            ("bot = 3", "bot = 3: allowed is a table: write [bot]"),
        ],
    )
    def test_a_bad_value_is_named_with_its_key_and_what_is_allowed(self, config: Path, text: str, said: str) -> None:
        (problem,) = problems(config, text)
        assert problem.startswith(f"{config}: {said}")

    def test_an_unknown_key_gets_a_suggestion(self, config: Path) -> None:
        (problem,) = problems(config, "[handoff]\ndrain_timout = 3")
        assert "handoff.drain_timout: unknown key; did you mean handoff.drain_timeout?" in problem

    def test_an_unknown_table_gets_a_suggestion(self, config: Path) -> None:
        (problem,) = problems(config, "[handof]\nsettle = 3")
        assert "handof: unknown table; did you mean handoff?" in problem

    def test_everything_that_is_wrong_is_said_at_once(self, config: Path) -> None:
        found = problems(config, "[bot]\nshards = 0\nap = 1\n[healt]\n", DISCORD_TOKEN="", DISCORD_API_URL="x")
        assert [any(word in problem for problem in found) for word in ("shards", "bot.ap", "healt", "API_URL", "token")]
        assert len(found) == 5

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"[bot\n", "not valid TOML"),
            (b"\xff", "not UTF-8 text (byte 0)"),
            (b"x = " + b"9" * 5000, "not valid TOML"),
            (b"x = " + b"[" * 5000, "not valid TOML"),
            (b"#" * 2_000_000, "not a settings file"),
        ],
    )
    def test_a_file_that_is_not_toml_is_said_to_be_so(self, config: Path, content: bytes, said: str) -> None:
        config.write_bytes(content)
        with pytest.raises(SettingsError) as caught:
            load(config, environ=ENVIRON)
        assert str(caught.value).startswith(f"{config}: ")
        assert said in str(caught.value)

    def test_an_override_of_the_api_url_is_checked_too(self, config: Path) -> None:
        (problem,) = problems(config, "", DISCORD_API_URL="nowhere")
        assert problem.startswith("DISCORD_API_URL = 'nowhere': allowed is")


def test_the_environment_overrides_the_api_url(config: Path) -> None:
    found = read(config, "", DISCORD_API_URL="http://127.0.0.1:1234/api/v10/")
    assert found.discord.api_url == "http://127.0.0.1:1234/api/v10"


class TestWhatRuns:
    @pytest.mark.parametrize("program", ["main.py", "sub/main.py", "/srv/bot/main.py", "../main.py", "-m my.bot"])
    def test_a_program_is_a_file_or_a_module(self, config: Path, program: str) -> None:
        assert read(config, f'[bot]\nprogram = "{program}"').bot.program == program

    def test_a_module_is_kept_with_one_space(self, config: Path) -> None:
        assert read(config, '[bot]\nprogram = "-m   mybot"').bot.program == "-m mybot"

    def test_a_program_and_an_app_exclude_each_other(self, config: Path) -> None:
        (problem,) = problems(config, '[bot]\nprogram = "main.py"\napp = "main:bot"')
        said = "bot.program = 'main.py' and bot.app = 'main:bot': allowed is one of the two"
        assert problem == f"{config}: {said}"

    def test_the_command_line_wins_over_program_app_and_arguments(self, config: Path) -> None:
        for text in ('program = "main.py"', 'app = "main:bot"', 'program = "main.py"\napp = "main:bot"'):
            config.write_text(f'[bot]\n{text}\nargs = ["--slow"]\nshards = 3')
            bot = load(None, environ=ENVIRON, named=Named(program="other.py", args=("--fast",))).bot
            assert (bot.program, bot.app, bot.args, bot.shards) == ("other.py", "", ("--fast",), 3)

    def test_what_the_command_line_does_not_name_is_the_files(self, config: Path) -> None:
        config.write_text('[bot]\napp = "main:bot"\nargs = ["--slow"]')
        bot = load(None, environ=ENVIRON, named=Named()).bot
        assert (bot.program, bot.app, bot.args) == ("", "main:bot", ("--slow",))
        assert load(None, environ=ENVIRON, named=Named(args=())).bot.args == ()

    def test_a_bad_module_on_the_command_line_is_said(self, config: Path) -> None:
        with pytest.raises(SettingsError, match="the command line: '-m my-bot': allowed is a file such as"):
            load(None, environ=ENVIRON, named=Named(program="-m my-bot"))


class TestTheEnvironmentFile:
    def test_it_is_found_beside_the_settings_and_read(self, config: Path) -> None:
        (config.parent / ".env").write_text("DATABASE=hunter2\n")
        found = read(config, '[bot]\nprogram = "main.py"\nenv_file = ".env"')
        assert (found.bot.env_file, found.environment) == (config.parent / ".env", {"DATABASE": "hunter2"})
        assert "hunter2" not in repr(found)

    def test_its_token_is_the_last_that_is_looked_for(self, config: Path) -> None:
        (config.parent / ".env").write_text("A=1\nDISCORD_TOKEN=from-env-file\n")
        text = '[bot]\napp = "main:bot"\nenv_file = ".env"\n'
        config.write_text(text)
        assert load(config, environ={}).token == "from-env-file"
        assert load(config, environ={"DISCORD_TOKEN": "from-env"}).token == "from-env"
        (config.parent / "t").write_text("from-file")
        found = read(config, f'{text}[discord]\ntoken_file = "t"', DISCORD_TOKEN="")
        assert (found.token, found.environment) == ("from-file", {"A": "1"})

    def test_what_is_wrong_with_it_is_said_with_everything_else(self, config: Path) -> None:
        (config.parent / ".env").write_text("hunter2\n")
        found = problems(config, '[bot]\nshards = 0\nenv_file = ".env"', DISCORD_TOKEN="Bot x")
        assert len(found) == 3
        assert found[2].startswith(f"bot.env_file: {config.parent}/.env: line 1: ")

    def test_a_token_in_it_that_cannot_be_one_is_said_and_an_empty_one_is_none(self, config: Path) -> None:
        (config.parent / ".env").write_text("DISCORD_TOKEN='Bot hunter2'\n")
        (problem,) = problems(config, '[bot]\nenv_file = ".env"', DISCORD_TOKEN="")
        assert problem.startswith(f"bot.env_file: {config.parent}/.env: DISCORD_TOKEN: not a token")
        assert "hunter2" not in problem
        (config.parent / ".env").write_text("DISCORD_TOKEN=\n")
        (problem,) = problems(config, '[bot]\nenv_file = ".env"', DISCORD_TOKEN="")
        assert problem.startswith("no Discord token")

    def test_it_is_not_looked_at_when_no_token_is_needed(self, config: Path) -> None:
        config.write_text('[bot]\nenv_file = "gone"')
        assert load(config, environ={}, need_token=False).environment == {}

    def test_read_once_more_it_brings_new_values_and_the_same_token(self, config: Path) -> None:
        (config.parent / ".env").write_text("A=1\nDISCORD_TOKEN=good\n")
        found = read(config, '[bot]\nenv_file = ".env"', DISCORD_TOKEN="")
        (config.parent / ".env").write_text("A=2\nDISCORD_TOKEN=bad\n")
        again = refreshed(found)
        assert (again.token, again.environment) == ("good", {"A": "2"})
        (config.parent / ".env").unlink()
        with pytest.raises(SettingsError, match=r"bot\.env_file: .*: cannot be read: No such file"):
            refreshed(again)


class TestTheToken:
    def test_the_environment_wins_over_the_file_and_that_over_the_credential(self, config: Path) -> None:
        (config.parent / "file").write_text(" from-file \n")
        credentials = config.parent / "credentials"
        credentials.mkdir()
        (credentials / "discord_token").write_text("from-credential\n")
        config.write_text('[discord]\ntoken_file = "file"')
        environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
        assert load(config, environ=environ | {"DISCORD_TOKEN": " from-env\n"}).token == "from-env"
        assert load(config, environ=environ | {"DISCORD_TOKEN": " "}).token == "from-file"
        config.write_text("")
        assert load(config, environ=environ).token == "from-credential"

    def test_a_credential_that_cannot_be_reached_is_said(self, config: Path) -> None:
        (problem,) = problems(config, "", DISCORD_TOKEN="", CREDENTIALS_DIRECTORY="/nowhere")
        assert problem == (
            "systemd credential discord_token: /nowhere/discord_token: the token cannot be read: "
            "No such file or directory"
        )

    @pytest.mark.parametrize("text", ["", '[bot]\napp = "main:bot"'])
    def test_a_missing_one_names_the_ways(self, config: Path, text: str) -> None:
        (problem,) = problems(config, text, DISCORD_TOKEN="")
        for way in ("DISCORD_TOKEN", "discord.token_file", "LoadCredential=discord_token", "bot.env_file"):
            assert way in problem

    def test_a_program_may_have_its_own(self, config: Path) -> None:
        assert read(config, '[bot]\nprogram = "main.py"', DISCORD_TOKEN="").token == ""
        assert load(None, environ={}, named=Named(program="-m mybot")).token == ""

    def test_a_file_that_is_named_must_hold_one_for_a_program_too(self, config: Path) -> None:
        (problem,) = problems(config, '[bot]\nprogram = "main.py"\n[discord]\ntoken_file = "t"', DISCORD_TOKEN="")
        assert "No such file" in problem

    def test_nothing_shows_it(self, config: Path) -> None:
        found = read(config, "")
        assert found.token == TOKEN
        assert TOKEN not in repr(found)
        assert TOKEN not in str(found)

    @pytest.mark.parametrize(
        "text",
        [
            f'[bot]\nenv_file = "{TOKEN}"',
            f'[discord]\ntoken = "{TOKEN}"',
            f'[discord]\ntoken_file = "{TOKEN}"',
            f'[bot]\napp = "{TOKEN}"',
        ],
    )
    def test_one_that_was_put_into_the_file_is_not_repeated_in_the_message(self, config: Path, text: str) -> None:
        for problem in problems(config, text, DISCORD_TOKEN=""):
            assert TOKEN not in problem

    @pytest.mark.parametrize("token", ["Bot abc.def.ghi", "two\nlines", "käse", "x" * 5000])
    def test_what_cannot_be_one_is_refused_without_showing_it(self, config: Path, token: str) -> None:
        (problem,) = problems(config, "", DISCORD_TOKEN=token)
        assert problem.startswith("DISCORD_TOKEN: not a token")
        assert token not in problem

    @pytest.mark.parametrize(("make", "said"), [(Path.mkdir, "it is a directory"), (Path.touch, "the file is empty")])
    def test_a_file_that_holds_none_is_an_error(self, config: Path, make: Any, said: str) -> None:
        make(config.parent / "t")
        (problem,) = problems(config, '[discord]\ntoken_file = "t"', DISCORD_TOKEN="")
        assert problem.startswith("discord.token_file: ")
        assert said in problem

    def test_a_file_that_is_missing_is_an_error(self, config: Path) -> None:
        (problem,) = problems(config, '[discord]\ntoken_file = "t"', DISCORD_TOKEN="")
        assert "No such file" in problem

    def test_it_is_not_looked_for_when_it_is_not_needed(self, config: Path) -> None:
        assert load(None, environ={}, need_token=False).token == ""


class TestTheControlSocket:
    @pytest.mark.parametrize(
        ("environ", "expected"),
        [
            ({"RUNTIME_DIRECTORY": "/run/b:/run/c", "XDG_RUNTIME_DIR": "/run/user/7"}, "/run/b/supervisor.sock"),
            ({"XDG_RUNTIME_DIR": "/run/user/7", "TMPDIR": "/x"}, "/run/user/7/bastion/supervisor.sock"),
            ({"TMPDIR": "/x"}, f"/x/bastion-{os.getuid()}/supervisor.sock"),
            ({}, f"/tmp/bastion-{os.getuid()}/supervisor.sock"),
        ],
    )
    def test_it_has_a_place_of_its_own_by_default(self, config: Path, environ: dict[str, str], expected: str) -> None:
        assert load(None, environ=ENVIRON | environ).control.socket == Path(expected)
        assert locate_socket(None, environ=environ) == Path(expected)

    def test_it_is_found_without_a_token_and_though_other_settings_are_wrong(self, config: Path) -> None:
        config.write_text('[bot]\nshards = 0\n[control]\nsocket = "s"')
        assert locate_socket(None, environ={}) == config.parent / "s"

    def test_a_path_that_no_socket_can_have_is_an_error(self, config: Path) -> None:
        name = "s" * 107
        config.write_text(f'[control]\nsocket = "/{name}"')
        for find in (locate_socket, load):
            with pytest.raises(SettingsError, match=r"control\.socket.*108 bytes long, 107 are allowed"):
                find(None, environ=ENVIRON)
        config.write_text(f'[control]\nsocket = "/{name[1:]}"')
        assert locate_socket(None, environ={}) == load(None, environ=ENVIRON).control.socket

    @pytest.mark.parametrize("text", ["control = 3", "[control]\nsocket = 3", '[control]\nsocket = "\\u0000"'])
    def test_a_bad_value_is_an_error_for_clients_too(self, config: Path, text: str) -> None:
        config.write_text(text)
        with pytest.raises(SettingsError, match=r"control\.socket = .*allowed is a path"):
            locate_socket(None, environ={})


KEYS = [
    ("bot", "app"),
    ("bot", "program"),
    ("bot", "env_file"),
    ("bot", "directory"),
    ("bot", "python"),
    ("bot", "shards"),
    ("bot", "args"),
    ("bot", "expired_text"),
    ("discord", "api_url"),
    ("discord", "token_file"),
    ("handoff", "headroom"),
    ("ledger", "path"),
    ("control", "socket"),
    ("health", "listen"),
    ("health", "unknown"),
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=120)
VALUES = st.one_of(
    TEXTS.map(lambda text: '"' + "".join(f"\\U{ord(character):08x}" for character in text) + '"'),
    st.integers().map(str),
    st.floats().map(repr),
    st.sampled_from(["true", "[]", "{}", "[[1]]", "1979-05-27", "07:32:00", '"http://[x"', '"unix:/x"', '"a:b"']),
)


def refusals(path: Path) -> list[str]:
    """What both readers of the file say against it; anything but `SettingsError` fails the test."""
    said: list[str] = []
    for find in (load, locate_socket):
        try:
            find(path, environ=ENVIRON)
        except SettingsError as error:
            said += error.problems or [""]
    return said


@hypothesis_settings(max_examples=300, deadline=None)
@given(key=st.sampled_from(KEYS), value=VALUES)
def test_any_value_is_taken_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, key: tuple[str, str], value: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_text(f"[{key[0]}]\n{key[1]} = {value}", encoding="utf-8")
    for problem in refusals(path):
        assert problem.isprintable()


@hypothesis_settings(max_examples=300, deadline=None)
@given(content=st.one_of(st.binary(max_size=300), TEXTS.map(str.encode)))
def test_any_file_is_taken_or_refused_in_words(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz-file.toml"
    path.write_bytes(content)
    for problem in refusals(path):
        assert problem


@pytest.mark.parametrize(
    ("text", "environ", "directory"),
    [
        ("", {}, None),
        ('resume_directory = ""', {}, None),
        ("", {"STATE_DIRECTORY": "/var/lib/bot:/var/lib/other"}, Path("/var/lib/bot")),
        ('resume_directory = ""', {"STATE_DIRECTORY": "/var/lib/bot"}, Path("/var/lib/bot")),
        ('resume_directory = "/srv/left"', {"STATE_DIRECTORY": "/var/lib/bot"}, Path("/srv/left")),
    ],
)
def test_what_outlives_a_stop_lies_where_systemd_says_unless_the_file_does(
    config: Path, text: str, environ: dict[str, str], directory: Path | None
) -> None:
    config.write_text(f"[restart]\n{text}\n")
    assert load(config, environ=environ | {"DISCORD_TOKEN": "x" * 20}).restart.resume_directory == directory


def test_a_key_that_has_lost_its_subject_is_accepted_and_named(tmp_path: Path) -> None:
    file = tmp_path / "bastion.toml"
    file.write_text("[handoff]\nstale_after = 60\nsettle = 3\n")
    assert load(file, environ={"DISCORD_TOKEN": "t" * 20}).without_effect == ("handoff.stale_after", "handoff.settle")
    file.write_text("[handoff]\nlinger = 60\n")
    assert load(file, environ={"DISCORD_TOKEN": "t" * 20}).without_effect == ()
