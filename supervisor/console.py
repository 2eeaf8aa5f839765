"""What the operator sees: the status table, a reload's progress, the timeline of a demo.

Takes plain data and makes text of it; asks nobody for anything. rich is imported only by what needs a terminal that
moves, so that `supervisor status` is quick.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from bastion.counted import counted
from bastion.supervisor.printable import STEERING

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

WIDTH = 100
"""Columns that every picture fits into."""

_RESET = "\033[0m"
_COLOURS = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35", "cyan": "36", "bold": "1"}
_STATE_COLOURS = {
    "serving": "green",
    "active": "green",
    "succeeded": "green",
    "standby": "cyan",
    "starting": "yellow",
    "handing-off": "yellow",
    "restarting": "red",
    "failed": "red",
    "refused": "red",
    "rolled-back": "red",
    "draining": "yellow",
}
_UNPRINTABLE = re.compile(f"[\t{STEERING}]+")


def plain(value: object) -> str:
    """Return text in which nothing moves the cursor: a path or a reason may hold anything."""
    return _UNPRINTABLE.sub(" ", str(value))


def paint(text: str, style: str | None, *, colour: bool) -> str:
    """Colour a text, or leave it as it is when ``colour`` is off or there is no ``style``."""
    return f"\033[{_COLOURS[style]}m{text}{_RESET}" if colour and style else text


def status_text(status: Mapping[str, Any], *, now: datetime | None = None, colour: bool = False) -> str:
    """Write `status --json`'s object as a table for people. ``now`` is aware and defaults to the present."""
    now = now or datetime.now(UTC)
    return "\n".join(
        [
            _supervisor_line(status.get("supervisor") or {}, now=now, colour=colour),
            "",
            *_children_table(status.get("children") or [], now=now, colour=colour),
            "",
            *_handoff_lines(status.get("last_handoff"), now=now, colour=colour),
            _budget_line(status.get("restarts", 0), status.get("session_start_limit")),
        ]
    )


def _supervisor_line(supervisor: Mapping[str, Any], *, now: datetime, colour: bool) -> str:
    state = plain(supervisor.get("state"))
    return (
        f"supervisor {plain(supervisor.get('version'))} (pid {supervisor.get('pid')}) is "
        f"{paint(state, _STATE_COLOURS.get(state), colour=colour)}, up {_age(supervisor.get('started_at'), now)}, "
        f"config {plain(supervisor.get('config') or 'none (defaults)')}"
        + (f"\nbeside us: {plain(beside)}" if (beside := supervisor.get("beside")) else "")
    )


_HEADER = ("gen", "role", "pid", "shards", "guilds", "memory", "cpu", "in flight", "handled", "beat", "up", "release")
_LEFT_ALIGNED = {"role", "release"}


def _children_table(children: Sequence[Mapping[str, Any]], *, now: datetime, colour: bool) -> list[str]:
    if not children:
        return [paint("no child runs", "red", colour=colour)]
    rows = [_HEADER, *(_child_row(child, now=now) for child in children)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if name in _LEFT_ALIGNED else cell.rjust(width)
            for name, cell, width in zip(_HEADER, row, widths, strict=True)
        ]
        if row is not _HEADER:  # coloured after it was padded: colour codes have no width
            cells[1] = paint(cells[1], _STATE_COLOURS.get(row[1].partition(",")[0]), colour=colour)
        lines.append("  ".join(cells).rstrip())
    lines[0] = paint(lines[0], "bold", colour=colour)
    return lines + [line for child in children if (line := _shards_not_ready(child))]


def _child_row(child: Mapping[str, Any], *, now: datetime) -> tuple[str, ...]:
    shards = child.get("shards") or []
    ready = sum(shard.get("state") == "ready" for shard in shards)
    return (
        _count(child.get("generation")),
        _role(child),
        str(child.get("pid")),
        f"{ready}/{len(shards)}" if shards else "-",
        _count(child.get("guilds")),
        _bytes(child.get("rss_bytes")),
        "-" if child.get("cpu_percent") is None else f"{child['cpu_percent']:.0f}%",
        _count(child.get("in_flight")),
        _count(child.get("handled")),
        _age(child.get("last_beat_at"), now),
        _age(child.get("started_at"), now),
        plain(child.get("release")),
    )


def _role(child: Mapping[str, Any]) -> str:
    role, lingering = plain(child.get("role")), child.get("lingering")
    if child.get("spare"):
        return f"{role}, spare"
    return f"{role}, lingers ({_count(lingering)} left)" if role == "draining" and lingering else role


def _shards_not_ready(child: Mapping[str, Any]) -> str | None:
    states: dict[str, list[str]] = {}
    for shard in child.get("shards") or []:
        if shard.get("state") != "ready":
            states.setdefault(plain(shard.get("state")), []).append(str(shard.get("id")))
    if not states:
        return None
    listed = "; ".join(f"{state}: {_some(ids)}" for state, ids in states.items())
    text = f"  generation {child.get('generation')}, shards not ready: {listed}"
    away = [shard for shard in child.get("shards") or [] if shard.get("away") is not None]
    if not away:
        return text
    longest = max(away, key=lambda shard: float(shard["away"]))
    which = "away" if len(away) == 1 else f"{longest.get('id')} the longest, away"
    return f"{text}; {which} for {_seconds(longest['away'])}: {plain(longest.get('why'))}"


_WAYS = {"moved": "moved to the new bot", "overlap": "new ones beside the old", "identified": "new ones"}
"""What became of the gateway sessions, by ``session``."""


def _handoff_lines(handoff: Mapping[str, Any] | None, *, now: datetime, colour: bool) -> list[str]:
    if not handoff:
        return ["last handoff: none yet"]
    result = handoff.get("result")
    outcome = paint(plain(result or "under way"), _STATE_COLOURS.get(str(result), "yellow"), colour=colour)
    moved = " -> ".join("nobody" if end is None else str(end) for end in (handoff.get("from"), handoff.get("to")))
    phases = ", ".join(f"{plain(name)} {_seconds(took)}" for name, took in (handoff.get("phases") or {}).items())
    lines = [
        f"last handoff: {plain(handoff.get('kind'))} {moved} {outcome} after {_seconds(handoff.get('duration'))}, "
        f"begun {_age(handoff.get('started_at'), now)} ago" + (f" ({phases})" if phases else "")
    ]
    if handoff.get("reason"):
        lines.append(f"  reason: {plain(handoff['reason'])}")
    counts = f"  replayed {_count(handoff.get('replayed'))}, expired {_count(handoff.get('expired'))}"
    dropped = handoff.get("overflowed")
    lines.append(f"{counts}, dropped {_count(dropped)}" if dropped else counts)
    if recovered := handoff.get("recovered"):
        missed = f"events missed: {_count(recovered.get('missed'))}"
        if recovered.get("lost"):
            missed = f"events missed: unknown, for about {_seconds(recovered.get('unheard_seconds'))}"
        lines.append(
            f"  sessions of the dead bot: {_count(recovered.get('sessions'))}, lost {_count(recovered.get('lost'))}; "
            + missed
        )
    if way := _WAYS.get(str(handoff.get("session"))):
        why = f" ({plain(handoff['why'])})" if handoff.get("why") else ""
        pause = f", the longest pause {_count(round(handoff.get('pause_ms') or 0))} ms" if "moved" in way else ""
        lines.append(f"  sessions: {way}{why}{pause}, IDENTIFYs {_count(handoff.get('identifies'))}")
    if (state := plain(handoff.get("state") or "none")) != "none":
        lines.append(f"  state: {state}")
    if cut := handoff.get("cut"):
        lines.append(f"  cut before it was done: {_some([plain(name) for name in cut])}")
    return lines


def _budget_line(restarts: object, limit: Mapping[str, Any] | None) -> str:
    line = f"restarts: {_count(restarts)}"
    if limit:
        line += (
            f"; IDENTIFYs left: {_count(limit.get('remaining'))} of {_count(limit.get('total'))}, "
            f"reset in {_seconds(limit.get('reset_after'))}, max_concurrency {_count(limit.get('max_concurrency'))}"
        )
    return line


def _some(items: Sequence[str], *, limit: int = 10) -> str:
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "-"


def _bytes(value: float | None) -> str:
    if value is None:
        return "-"
    for unit in ("B", "KB", "MB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GB"


def _seconds(value: object) -> str:
    """Write a duration in the two largest units that matter."""
    if not isinstance(value, int | float):
        return "-"
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {seconds} s"
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _age(stamp: object, now: datetime) -> str:
    if not isinstance(stamp, str):
        return "-"
    try:
        return _seconds(max(0.0, (now - datetime.fromisoformat(stamp)).total_seconds()))
    except (ValueError, TypeError):
        return "-"


class ReloadView(Protocol):
    """Shows a reload while it runs. A context manager around the whole of it."""

    def __enter__(self) -> ReloadView:
        """Begin to show."""

    def __exit__(self, *_: object) -> None:
        """Clear what moves."""

    def show(self, progress: Mapping[str, Any]) -> None:
        """Show one progress line of the control socket."""


def reload_view(stream: TextIO) -> ReloadView:
    """Return the view for a stream: a bar on a terminal, lines elsewhere."""
    return _BarView(stream) if stream.isatty() else _LineView(stream)


class SilentView:
    """Shows nothing, for ``--json``."""

    def __enter__(self) -> SilentView:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, progress: Mapping[str, Any]) -> None:
        """Show nothing."""


class _LineView(SilentView):
    """One line for each change."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = ""

    def show(self, progress: Mapping[str, Any]) -> None:
        phase = plain(progress.get("phase"))
        line = f"{phase}: {_progress_text(progress)}"
        said = phase if phase == "probation" else line  # which counts down second by second
        if said != self._last:
            self._last = said
            print(line, file=self._stream, flush=True)


class _BarView:
    """A bar over the new child's shards, with the phase and what it waits for."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bars: Bars | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> _BarView:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._escape = escape
        self._bars = Progress(
            TextColumn("[bold]{task.fields[phase]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[shards]}"),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=Console(file=self._stream),
            transient=True,
        )
        self._bars.start()
        self._task = self._bars.add_task("the supervisor has been asked", total=None, phase="reload", shards="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, progress: Mapping[str, Any]) -> None:
        """Move the bar."""
        if self._bars is None or self._task is None:
            return
        total = progress.get("shards_total")
        self._bars.update(
            self._task,
            description=self._escape(plain(progress.get("message"))),
            total=total,
            completed=progress.get("shards_ready") or 0,
            phase=self._escape(plain(progress.get("phase"))),
            shards=f"{progress.get('shards_ready')}/{counted(int(total), 'shard')}" if total else "",
        )


def _progress_text(progress: Mapping[str, Any]) -> str:
    text = plain(progress.get("message"))
    ready, total = progress.get("shards_ready"), progress.get("shards_total")
    said = re.search(r"shards? ready", text) is not None or ready == total
    return text if said or not total else f"{text} ({ready}/{counted(int(total), 'shard')} ready)"


def outcome_text(outcome: Mapping[str, Any], *, command: str, seconds: float) -> str:
    """Write a reload's end in one line: the result, what it means for the bot, the reason, the duration.

    What the operator should know beside it stands in a line of its own each.
    """
    return "\n".join([_ended(outcome, command=command, seconds=seconds), *_remarks(outcome)])


def _remarks(outcome: Mapping[str, Any]) -> list[str]:
    return [f"note: {plain(remark)}" for remark in outcome.get("remarks") or []]


def _ended(outcome: Mapping[str, Any], *, command: str, seconds: float) -> str:
    result = plain(outcome.get("result")).replace("-", " ")
    generation = outcome.get("generation")
    if outcome.get("result") == "succeeded":
        text = f"{command} succeeded after {_seconds(seconds)}: generation {generation} is active"
        text += _sessions_text(outcome.get("handoff") or {})
        lingering = outcome.get("lingering")
        if not lingering:
            return text
        what = "view or conversation that is" if lingering == 1 else "views and conversations that are"
        return f"{text}; the old one stays for {_count(lingering)} {what} open"
    left = "no generation is active" if generation is None else f"generation {generation} goes on serving"
    reason = plain(outcome.get("reason") or "no reason was given").rstrip(".")
    return f"{command} {result} after {_seconds(seconds)}: {reason}. {left[0].upper()}{left[1:]}."


def _sessions_text(handoff: Mapping[str, Any]) -> str:
    """Say in a few words what became of the gateway sessions."""
    identifies = counted(int(handoff.get("identifies") or 0), "IDENTIFY", many="IDENTIFYs")
    match handoff.get("session"):
        case "moved":
            return (
                f", with the old one's sessions (longest pause {_count(round(handoff['pause_ms']))} ms, {identifies})"
            )
        case "overlap":
            return f", with sessions of its own ({plain(handoff.get('why'))}; {identifies})"
        case _:
            return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A span on the timeline, in seconds from its beginning."""

    label: str
    start: float
    end: float
    good: bool


_GENERATION_COLOURS = ("green", "cyan", "magenta", "yellow", "blue", "red")
_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = ".:-=+*#@"


def timeline_text(
    seconds: Sequence[Mapping[int, int]],
    marks: Sequence[Mark],
    *,
    colour: bool = False,
    unicode: bool = True,
    width: int = WIDTH,
) -> str:
    """Draw who answered, second by second: a row for each generation, a block scaled to its count.

    ``seconds[i]`` maps a generation (0: not known) to how many answers it gave in second i. Fits
    ``width`` columns: where there are more seconds than columns, a column stands for several.
    """
    generations = sorted({generation for second in seconds for generation in second})
    labels = {generation: f"generation {generation}" if generation else "not known" for generation in generations}
    label_width = max(map(len, [*labels.values(), *(mark.label for mark in marks)]), default=0)
    room = max(10, width - label_width - 2)
    per_column = max(1, -(-len(seconds) // room))
    columns = [_merged(seconds[start : start + per_column]) for start in range(0, len(seconds), per_column)]
    peak = max((count for column in columns for count in column.values()), default=0)
    blocks = _BLOCKS if unicode else _ASCII_BLOCKS
    lines = [" " * (label_width + 2) + _axis(len(columns), per_column)]
    for position, generation in enumerate(generations):
        bar = "".join(_block(column.get(generation, 0), peak, blocks) for column in columns).rstrip()
        style = _GENERATION_COLOURS[position % len(_GENERATION_COLOURS)]
        lines.append(f"{labels[generation].ljust(label_width)}  {paint(bar, style, colour=colour)}")
    lines += [_mark_line(mark, label_width, per_column, len(columns), colour=colour, unicode=unicode) for mark in marks]
    scale = f"one column is {per_column} s, the tallest block {counted(peak, 'answer')}"
    return "\n".join([*lines, " " * (label_width + 2) + scale])


def _merged(part: Sequence[Mapping[int, int]]) -> dict[int, int]:
    total: dict[int, int] = {}
    for second in part:
        for generation, count in second.items():
            total[generation] = total.get(generation, 0) + count
    return total


def _block(count: int, peak: int, blocks: str) -> str:
    return " " if not count else blocks[min(len(blocks) - 1, (count * len(blocks) - 1) // peak)]


def _axis(columns: int, per_column: int) -> str:
    return "".join(f"{column * per_column} s".ljust(10) for column in range(0, columns, 10))[: columns + 6].rstrip()


def _mark_line(mark: Mark, label_width: int, per_column: int, columns: int, *, colour: bool, unicode: bool) -> str:
    start = min(int(mark.start / per_column), max(0, columns - 1))
    length = max(0, min(int(mark.end / per_column), max(0, columns - 1)) - start)
    body, good, bad = ("─", "✔", "✘") if unicode else ("-", "+", "x")
    drawn = body * length + (good if mark.good else bad)
    return (
        f"{mark.label.ljust(label_width)}  {' ' * start}{paint(drawn, 'green' if mark.good else 'red', colour=colour)}"
    )


def can_draw(stream: TextIO | None = None) -> bool:
    """Say whether a stream's encoding has the block characters."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    try:
        (_BLOCKS + "─✔✘").encode(encoding)
    except (UnicodeError, LookupError):
        return False
    return True
