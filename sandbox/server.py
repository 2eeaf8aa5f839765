"""The sandbox itself: wires world, gateway, REST, traffic, journal and control to one port on loopback.

Knows how the parts are put together and how they start and stop. It decides nothing about Discord.
"""

from __future__ import annotations

from types import TracebackType

from aiohttp import web

from .channels import BotMessages, ChannelRoutes
from .connection import Connection
from .control import Control
from .directory import DirectoryRoutes
from .distance import Distance
from .emitter import Emitter
from .faults import Faults
from .interactions import InteractionRoutes
from .rest import PREFIX, RestApi
from .settings import SandboxSettings
from .traffic import Traffic
from .verdict import Verdict

_LINGER_MARGIN = 0.5


class Sandbox(Emitter):
    """A local Discord. Use it as an async context manager; it listens from entering to leaving.

    The ``emit_*`` methods emit single events, `traffic` emits many, `faults` breaks things, `journal` remembers.

    Raises (on entering):
        OSError: the port is taken.
    """

    def __init__(self, settings: SandboxSettings | None = None) -> None:
        super().__init__(settings or SandboxSettings())
        self.traffic = Traffic(self)
        self._runner: web.AppRunner | None = None
        self._distance: Distance | None = None
        self.port = 0

    @property
    def faults(self) -> Faults:
        """Faults on demand."""
        return self.gateway.faults

    @property
    def token(self) -> str:
        """The bot token that is good here."""
        return self.settings.token

    @property
    def url(self) -> str:
        """Where the sandbox listens, without a path. The control API is at ``<url>/sandbox/...``."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http://{host}:{self.port}"

    @property
    def api_url(self) -> str:
        """The base of the REST API."""
        return self.url + PREFIX

    @property
    def gateway_url(self) -> str:
        """The websocket's address."""
        return self._socket_url("/gateway")

    @property
    def resume_url(self) -> str:
        """The address that READY gives for RESUMEs: another path, so that it can fail alone."""
        return self._socket_url("/resume")

    def _socket_url(self, path: str) -> str:
        far = self._distance.port if self._distance is not None else self.port
        return self.url.replace("http://", "ws://", 1).removesuffix(str(self.port)) + str(far) + path

    async def __aenter__(self) -> Sandbox:
        runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=1.0, handle_signals=False)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self.settings.host, self.settings.port)
            await site.start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        self.port = runner.addresses[0][1]
        if self.settings.network_delay:
            self._distance = Distance(self.settings.host, self.port, self.settings.network_delay)
            await self._distance.start()
        self.gateway.resume_url = self.resume_url
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.traffic.stop()
        self.gateway.shut_down()
        if self._distance is not None:
            await self._distance.stop()
            self._distance = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=32 * 1024 * 1024)
        rest = RestApi(self)
        messages = BotMessages(self)
        rest.add(app, DirectoryRoutes(self, lambda: self.gateway_url).routes())
        rest.add(app, ChannelRoutes(self, messages).routes())
        rest.add(app, InteractionRoutes(self, messages).routes())
        rest.add_fallback(app)
        Control(self, self.traffic, self.settled).add(app)
        for path in ("/gateway", "/gateway/", "/"):
            app.router.add_get(path, self._gateway_socket)
        app.router.add_get("/resume", self._resume_socket)
        return app

    async def _resume_socket(self, request: web.Request) -> web.StreamResponse:
        status = self.faults.resume_address()
        return await self._gateway_socket(request) if status is None else web.Response(status=status)

    async def _gateway_socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(compress=False, max_msg_size=1024 * 1024, timeout=1.0)
        if not socket.can_prepare(request).ok:
            return web.Response(status=426, text="This is the gateway: connect with a websocket.\n")
        await socket.prepare(request)
        await Connection(self.gateway, request, socket).run()
        return socket

    async def settled(
        self,
        *,
        timeout: float = 10.0,
        quiet: float | None = None,
        linger: float | None = None,
        since: float | None = None,
    ) -> Verdict:
        """Wait until every expected event is handled or nothing moves any more, then give the verdict.

        Args:
            timeout: seconds to wait at most, before ``linger``.
            quiet: seconds without any new handling after which waiting is given up. Default: ``timeout``.
            linger: seconds to listen on for duplicates. Default: the longest skew and half a second.
            since: as in `Journal.verdict`.
        """
        tail = self.settings.skew[1] + _LINGER_MARGIN if linger is None else linger
        await self.journal.settled(timeout=timeout, quiet=timeout if quiet is None else quiet, linger=tail)
        return self.journal.verdict(since=since)
