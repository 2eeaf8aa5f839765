"""The pipe's messages: what a child and the supervisor say to each other.

One JSON object a line, tagged by ``type``. This module knows the shapes; it knows nothing of bytes, of processes, of
discord or of what a message means.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

PROTOCOL = 7
"""Version of these messages, sent in `Hello`. A child with another one is refused before it connects."""

EXIT_CONFIG = 78
"""Exit code of a child whose app or token cannot be used, where another try would end alike, and of a supervisor with a
configuration that cannot work (EX_CONFIG of sysexits.h)."""

RoleName: TypeAlias = Literal["starting", "standby", "active", "draining"]
ShardState: TypeAlias = Literal["waiting", "connecting", "ready", "resuming", "closed"]


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all messages: immutable, by name only, nothing unknown let in."""


class Launched(_Message, frozen=True, tag="launched"):
    """First words of the launcher: the answer to `Challenge`. The package `bastion` that it found is ours."""

    nonce: str


class Hello(_Message, frozen=True, tag="hello"):
    """First words of a child: the runtime is loaded, the program is not yet."""

    pid: int
    protocol: int
    versions: dict[str, str]


class Starting(_Message, frozen=True, tag="starting"):
    """A sign of life once a second from a child whose program has not logged in yet, and the answer to a `Ping`.

    A thread sends it, so it says nothing of the program's event loop: there may be none yet.
    """

    doing: str
    """Where the program's main thread is, such as ``main.py:12, in migrate``."""
    pong: int = 0
    """Number of the newest `Ping` seen, 0 before the first."""


class LoggedIn(_Message, frozen=True, tag="logged-in"):
    """The program logs in with this token, which the supervisor keeps out of the log."""

    token: str


class Remark(_Message, frozen=True, tag="remark"):
    """Something about the program that its operator should know, though it is no fault. The child logs it, too."""

    text: str


class Identify(_Message, frozen=True, tag="identify"):
    """The child asks leave to IDENTIFY this shard; it opens no socket for it before the `Permit`."""

    shard: int


class Limits(_Message, frozen=True, tag="limits"):
    """What ``GET /gateway/bot`` said: session_start_limit and the shard count. ``reset_after`` is in seconds."""

    total: int
    remaining: int
    reset_after: float
    max_concurrency: int
    shards: int
    """How many shards this child will connect (its own count, also when the settings fixed it)."""


class Shard(_Message, frozen=True, tag="shard"):
    """A shard changed its state. ``connecting`` is sent right after IDENTIFY left: from there its window counts."""

    id: int
    state: ShardState
    latency_ms: float | None = None
    why: str = ""
    """Why it is not ready, as far as that is known: by which close code it was cut, why it cannot connect."""


class Wants(_Message, frozen=True, tag="wants"):
    """What the sessions of this child are like, or are to be: two children can hand them on if theirs are alike.

    A child in standby connects only after the answer, `Mirror` or `Overlap`.
    """

    application: int
    account: str
    """A digest of the token."""
    api_url: str
    intents: int
    shards: int
    ids: list[int]
    any_count: bool
    """Whether the child takes as many shards as the holder has, if these are not fewer."""
    library: str
    """Major and minor version of discord.py."""
    stream: int
    """Version of the stream between children."""
    members: int
    """Which members are cached, as discord.py's flags."""
    messages: bool
    """Whether messages are cached."""
    chunks: bool
    """Whether all members of all guilds are wanted."""


class Serving(_Message, frozen=True, tag="serving"):
    """Answer to `Serve`: the child of this generation can connect now; or it cannot, for ``problem``.

    ``claims``: as it was asked for.
    """

    generation: int
    problem: str = ""
    claims: bool = False


class Moved(_Message, frozen=True, tag="moved"):
    """All sessions are this child's. ``pause_ms`` is the longest time that a shard received nothing meanwhile.

    ``identifies``: shards whose session could not be resumed.
    """

    pause_ms: float
    identifies: int = 0


class Ready(_Message, frozen=True, tag="ready"):
    """Every shard is ready and the guild cache is filled."""

    shards: int
    guilds: int


class Role(_Message, frozen=True, tag="role"):
    """The role now held: the acknowledgement of `Activate`, `Standby`, `Drain` and `Introduce`."""

    role: RoleName


class Claims(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Counts of asked claims since the child began."""

    won: int = 0
    lost: int = 0
    errors: int = 0


class Beat(_Message, frozen=True, tag="beat"):
    """A numbered sign of life from the child's event loop, once a second, and at once in answer to a `Ping`.

    Counters run since the child began. ``loop_lag_ms`` is by how much the loop woke late at worst since the last beat.
    """

    n: int
    loop_lag_ms: float
    in_flight: int
    handled: int
    held: int = 0
    replayed: int = 0
    expired: int = 0
    overflowed: int = 0
    received: int = 0
    heard: int = 0
    """Events received in a window that every session of the bot should get: what two children can compare."""
    guilds: int = 0
    lingering: int = 0
    """What a draining child still waits for: live views, open modals, conversations."""
    claims: Claims = Claims()
    latencies: dict[int, float] = {}
    """Milliseconds by shard id, for those shards whose heartbeat was answered at least once."""
    pong: int = 0
    """Number of the newest `Ping` seen, 0 before the first."""


class Lingering(_Message, frozen=True, tag="lingering"):
    """A draining child runs nothing any more but what people are in the middle of. Sent once a drain, or not at all."""

    views: int
    """Live views and open modals that only this child can answer."""
    conversations: int
    """Handlers that wait for an event."""


class Drained(_Message, frozen=True, tag="drained"):
    """A draining child has nothing left to finish. ``cut`` names what its limits ended: handlers, views, modals."""

    finished: int
    cut: list[str]


class Importing(_Message, frozen=True, tag="importing"):
    """The child has asked the old one for its app's state. Answered by `Imported`, or by nothing if there is none."""


class Imported(_Message, frozen=True, tag="imported"):
    """State was taken over, or was not, for ``reason``."""

    source: Literal["handoff", "checkpoint"]
    reason: str | None = None
    seconds: float = 0.0


class Fatal(_Message, frozen=True, tag="fatal"):
    """The child gives up and exits. ``retryable``: the same release could succeed on another try.

    ``apart``: it could with sessions of its own, for those of the active child cannot be moved.
    """

    reason: str
    retryable: bool
    apart: bool = False


class Recovered(_Message, frozen=True, tag="recovered"):
    """How a `Recover` stands; the newest one counts. The events themselves are counted in `Beat`."""

    generation: int
    sessions: int
    """Sessions that the dead child left."""
    lost: int = 0
    """Those of them that could not be resumed: what was sent on them meanwhile is lost."""
    unheard: float = 0.0
    """For about how many seconds nobody heard the lost ones, so that nobody knows how many events that were."""
    missed: int = 0
    """Events that were received and could not be handed to the app any more."""
    cut: list[str] = []
    """Names of the handlers that ran when the child died."""


class Cut(_Message, frozen=True, tag="cut"):
    """Answer to `Inquire`: ``names`` are the handlers that ran in the child of this generation when it died.

    A child that gives up says it of itself; so does one that ``lives``, of a drain that is taken back.
    """

    generation: int
    names: list[str]
    lives: bool = False


class Challenge(_Message, frozen=True, tag="challenge"):
    """First words of the supervisor. Only our launcher answers them with the same ``nonce``."""

    nonce: str
    protocol: int
    """What the supervisor speaks. A package that speaks another one does not become a child."""


class Environment(_Message, frozen=True, tag="environment"):
    """The answer to `Launched`: variables for the program's environment, the token among them, if there is one."""

    variables: dict[str, str]


class Permit(_Message, frozen=True, tag="permit"):
    """Leave to IDENTIFY this shard now, once."""

    shard: int


class Window(_Message, frozen=True, tag="window"):
    """Claim every event from now on (open), or learn that no other child is there any more (closed)."""

    open: bool


class Activate(_Message, frozen=True, tag="activate"):
    """Become the active child: replay what nobody claimed, then go on live. Answered by `Role`."""

    still: int = 0
    """Under which number the bot claims that has the sessions, if its supervisor stands still: if that bot does too,
    its sessions are resumed all the same. 0: it does not."""


class Standby(_Message, frozen=True, tag="standby"):
    """Handle what has come by now, then hold events again (an activation that is taken back). Answered by `Role`."""


class Drain(_Message, frozen=True, tag="drain"):
    """Handle what has come by now, then take nothing new, finish what began within ``limit`` seconds, close the
    sessions, exit.

    What people are in the middle of (live views, open modals, conversations) may go on for ``linger`` seconds.
    Answered by `Role`, then, if something lingers, `Lingering`, then `Drained`.
    """

    limit: float
    linger: float = 0.0
    gives: bool = False
    """Another supervisor's bot is about to take the sessions: go on until it has, if it mirrors them."""
    save: str = ""
    """Where the cache is to be left before that, and the sessions with it, for the next start; empty: nowhere."""


class Recover(_Message, frozen=True, tag="recover"):
    """The active child of this generation is dead: go on with its sessions. Of another supervisor's: its claimer.

    A child that mirrors it resumes them in its place. Any other one changes over to them from its own, where these
    missed something, answered by `Recovered`. A child that has said `Ready`, and was not told to activate, says it once
    more.
    """

    generation: int
    saved: str = ""
    """Where its cache may be; the file is read once."""


class Inquire(_Message, frozen=True, tag="inquire"):
    """The child of this generation died before it had drained: tell what it left running. Answered by `Cut`, at once.

    Whatever was sent before this is answered before it, and what is sent after it later: so names are known by the time
    at which another child has taken over.
    """

    generation: int


class Serve(_Message, frozen=True, tag="serve"):
    """Let the child of this generation connect to the socket at ``path``, and copy to it. Answered by `Serving`.

    Each end shows its secret (hexadecimal).
    """

    generation: int
    path: str
    """Empty: it does not connect, for the two speak different versions of the stream."""
    shows: str
    expects: str
    claims: bool = False
    """It begins sessions of its own: claim every event before you answer."""


class Mirror(_Message, frozen=True, tag="mirror"):
    """Connect to the child that has the sessions, at ``path``, and mirror its ``shards``: how many they are in all."""

    path: str
    shows: str
    expects: str
    shards: int
    ids: list[int]


class Overlap(_Message, frozen=True, tag="overlap"):
    """Begin sessions of your own; be given the app's state by the child that listens at ``path``, if there is one."""

    why: str
    path: str = ""
    shows: str = ""
    expects: str = ""


class Introduce(_Message, frozen=True, tag="introduce"):
    """The supervisor is another program now, which knows nothing of this active child: tell what there is to know.

    Answered by `LoggedIn`, `Wants`, `Ready`, `Shard` and `Identify` as things are, `Beat`, and at last `Role`.
    """


class Ping(_Message, frozen=True, tag="ping"):
    """Answer with a `Beat` whose ``pong`` is this ``n``."""

    n: int


FromChild: TypeAlias = (
    Launched
    | Hello
    | Starting
    | LoggedIn
    | Remark
    | Identify
    | Limits
    | Wants
    | Serving
    | Moved
    | Shard
    | Ready
    | Role
    | Beat
    | Lingering
    | Importing
    | Imported
    | Drained
    | Recovered
    | Cut
    | Fatal
)
ToChild: TypeAlias = (
    Challenge
    | Environment
    | Permit
    | Window
    | Activate
    | Standby
    | Drain
    | Recover
    | Inquire
    | Serve
    | Mirror
    | Overlap
    | Introduce
    | Ping
)
