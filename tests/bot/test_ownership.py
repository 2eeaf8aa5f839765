"""Whose a press is, by every way in which a bot can send a view: real discord.py against a sandbox in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import discord
import pytest
from yarl import URL

from bastion.bot import internals
from bastion.bot.components import Ownership, ownership
from bastion.sandbox import Entry, Sandbox, SandboxSettings

pytestmark = pytest.mark.anyio

Press = discord.Interaction[Any]
Send = Callable[[Press, discord.ui.View], Awaitable[Any]]


class Counter(discord.ui.DynamicItem[discord.ui.Button[Any]], template=r"counter:(?P<count>[0-9]+)"):
    """Its custom id carries its state."""

    def __init__(self, count: int) -> None:
        super().__init__(discord.ui.Button(label="count", custom_id=f"counter:{count}"))

    @classmethod
    async def from_custom_id(cls, interaction: Press, item: Any, match: Any, /) -> Counter:
        return cls(int(match["count"]))

    async def callback(self, interaction: Press) -> None:
        await done(interaction)


class Panel(discord.ui.View):
    """A button, a select, and a button that sends another view."""

    @discord.ui.button(label="press")
    async def press(self, interaction: Press, button: discord.ui.Button[Any]) -> None:
        await done(interaction)

    @discord.ui.select(options=[discord.SelectOption(label="a")])
    async def choose(self, interaction: Press, select: discord.ui.Select[Any]) -> None:
        await done(interaction)

    @discord.ui.button(label="again")
    async def again(self, interaction: Press, button: discord.ui.Button[Any]) -> None:
        await interaction.response.send_message("again", view=Panel(timeout=60), ephemeral=True)


class Lasting(discord.ui.View):
    """Any process that registered it can answer it."""

    def __init__(self) -> None:
        super().__init__(timeout=None)

    @discord.ui.button(label="press", custom_id="lasting")
    async def press(self, interaction: Press, button: discord.ui.Button[Any]) -> None:
        await done(interaction)


class Form(discord.ui.Modal, title="Form"):
    """One field."""

    name: discord.ui.TextInput[Any] = discord.ui.TextInput(label="name")

    async def on_submit(self, interaction: Press) -> None:
        await done(interaction)


async def done(interaction: Press) -> None:
    await interaction.response.send_message("done", ephemeral=True)


class App(discord.Client):
    """Answers /go as the test says, and notes what it is to each press."""

    def __init__(self) -> None:
        super().__init__(intents=discord.Intents.default())
        self.tree = discord.app_commands.CommandTree(self)
        self.act: Callable[[Press], Awaitable[Any]] = done
        self.presses: asyncio.Queue[tuple[dict[str, Any], Ownership]] = asyncio.Queue()

        @self.tree.command()
        async def go(interaction: Press) -> None:
            await self.act(interaction)

    async def setup_hook(self) -> None:
        await self.tree.sync()
        parser = internals.parsers(self)["INTERACTION_CREATE"]

        def noted(data: dict[str, Any]) -> None:
            if data["type"] != 2:
                self.presses.put_nowait((data, ownership(self, data)))
            parser(data)

        internals.parsers(self)["INTERACTION_CREATE"] = noted


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(guilds=1, identify_window=0)) as running:
        yield running


@pytest.fixture
async def app(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    monkeypatch.setattr(discord.http.Route, "BASE", sandbox.api_url)
    monkeypatch.setattr(discord.gateway.DiscordWebSocket, "DEFAULT_GATEWAY", URL(sandbox.gateway_url))
    client = App()
    client._connection.guild_ready_timeout = 0.1
    async with client:
        running = asyncio.create_task(client.start(sandbox.token))
        ready = asyncio.create_task(client.wait_until_ready())
        await asyncio.wait({running, ready}, timeout=15, return_when=asyncio.FIRST_COMPLETED)
        assert ready.done(), running.exception() if running.done() else "it did not become ready"
        yield client
    await running
    await asyncio.sleep(0)  # aiohttp closes its transports one turn after its session


async def successor() -> App:
    """The same app in another process: it sent nothing."""
    client = App()
    await client._async_setup_hook()
    client.add_view(Lasting())
    client.add_dynamic_items(Counter)
    return client


async def go(sandbox: Sandbox, app: App, act: Callable[[Press], Awaitable[Any]]) -> int:
    """Run /go and return the id of the message with components that came of it, or of the last one before."""
    acted = asyncio.Event()

    async def acting(interaction: Press) -> None:
        await act(interaction)
        acted.set()

    app.act = acting
    sandbox.emit_slash("go")
    async with asyncio.timeout(5):
        await acted.wait()
    found = list(sandbox.world.components.values())
    return found[-1].message_id if found else 0


async def pressed(sandbox: Sandbox, app: App, entry: Entry) -> tuple[dict[str, Any], Ownership]:
    """Wait until a press was judged, and answered by the app."""
    async with asyncio.timeout(5):
        noted = await app.presses.get()
    await sandbox.journal.wait_handled(entry)
    return noted


async def by_channel(interaction: Press, view: discord.ui.View) -> None:
    await done(interaction)
    assert isinstance(interaction.channel, discord.TextChannel)
    await interaction.channel.send("panel", view=view)


async def by_reply(interaction: Press, view: discord.ui.View) -> None:
    await done(interaction)
    assert isinstance(interaction.channel, discord.TextChannel)
    message = await interaction.channel.send("first")
    await message.reply("panel", view=view)


async def by_response(interaction: Press, view: discord.ui.View) -> None:
    await interaction.response.send_message("panel", view=view)


async def by_ephemeral_response(interaction: Press, view: discord.ui.View) -> None:
    await interaction.response.send_message("panel", view=view, ephemeral=True)


async def by_follow_up(interaction: Press, view: discord.ui.View) -> None:
    await interaction.response.defer()
    await interaction.followup.send("panel", view=view, wait=True)


async def by_ephemeral_follow_up(interaction: Press, view: discord.ui.View) -> None:
    await done(interaction)
    await interaction.followup.send("panel", view=view, wait=True, ephemeral=True)


async def by_edit_of_the_response(interaction: Press, view: discord.ui.View) -> None:
    await done(interaction)
    await interaction.edit_original_response(view=view)


async def by_edit_of_a_message(interaction: Press, view: discord.ui.View) -> None:
    await done(interaction)
    assert isinstance(interaction.channel, discord.TextChannel)
    message = await interaction.channel.send("plain")
    await message.edit(view=view)


WAYS = [
    by_channel,
    by_reply,
    by_response,
    by_ephemeral_response,
    by_follow_up,
    by_ephemeral_follow_up,
    by_edit_of_the_response,
    by_edit_of_a_message,
]


@pytest.mark.parametrize("send", WAYS)
async def test_a_timed_view_is_the_senders_however_it_was_sent(sandbox: Sandbox, app: App, send: Send) -> None:
    message = await go(sandbox, app, lambda interaction: send(interaction, Panel(timeout=60)))
    other = await successor()
    for emit in (sandbox.emit_button, sandbox.emit_select, sandbox.emit_button):
        data, mine = await pressed(sandbox, app, emit(message=message))
        assert mine is Ownership.OWNER
        assert ownership(other, data) is Ownership.STRANGER


async def test_a_view_that_a_button_sent_is_the_senders(sandbox: Sandbox, app: App) -> None:
    message = await go(sandbox, app, lambda interaction: by_ephemeral_response(interaction, Panel(timeout=60)))
    buttons = [one for one in sandbox.world.components.values() if one.message_id == message and one.type == 2]
    await pressed(sandbox, app, sandbox.emit_component(buttons[-1]))
    newest = list(sandbox.world.components.values())[-1].message_id
    assert newest != message
    data, mine = await pressed(sandbox, app, sandbox.emit_button(message=newest))
    assert mine is Ownership.OWNER
    assert ownership(await successor(), data) is Ownership.STRANGER


@pytest.mark.parametrize("send", WAYS)
async def test_a_persistent_view_is_for_whoever_registered_it_however_it_was_sent(
    sandbox: Sandbox, app: App, send: Send
) -> None:
    app.add_view(Lasting())
    message = await go(sandbox, app, lambda interaction: send(interaction, Lasting()))
    data, mine = await pressed(sandbox, app, sandbox.emit_button(message=message))
    assert mine in (Ownership.SHARED, Ownership.ABLE)
    assert ownership(await successor(), data) is Ownership.ABLE


async def test_a_dynamic_item_is_for_whoever_registered_it(sandbox: Sandbox, app: App) -> None:
    app.add_dynamic_items(Counter)
    view = discord.ui.View(timeout=None).add_item(Counter(3))
    message = await go(sandbox, app, lambda interaction: by_response(interaction, view))
    data, mine = await pressed(sandbox, app, sandbox.emit_button(message=message))
    assert mine is Ownership.ABLE
    assert ownership(await successor(), data) is Ownership.ABLE


async def test_a_modal_is_the_openers(sandbox: Sandbox, app: App) -> None:
    await go(sandbox, app, lambda interaction: interaction.response.send_modal(Form()))
    data, mine = await pressed(sandbox, app, sandbox.emit_modal())
    assert mine is Ownership.OWNER
    assert ownership(await successor(), data) is Ownership.STRANGER
