"""The other supervisors that share the ledger, as this one lives beside them: looks at them, and tells them of itself.

Four times a second it looks at the register (`neighbours`), passes on to the slot what has changed, answers what the
others ask for their bots, and takes their answers for its own (`exchange`). An example, supervisor 2 comes beside 1:

    2 has its bot spawned, and writes what sessions that wants
    1 has its own bot listen, and answers: mirror it, with these secrets
    1 is told to stop, and says so in the register; 2 has its bot take the sessions, and says that it is active
    1 ends

Knows the slot, the register and the exchange. What follows from who is there `neighbours` and the machine decide.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import anyio
import msgspec

from bastion.supervisor import exchange, neighbours, sessionfiles
from bastion.supervisor.events import Neighbours
from bastion.supervisor.exchange import Exchange
from bastion.supervisor.neighbours import LOOK_SECONDS, Membership, Neighbour, Register, Stage
from bastion.supervisor.slot import Slot
from bastion.wire import Mirror, Overlap, ToChild, Wants, claimer, sessions_path, stream_path, supervisor_of
from bastion.wire.private import is_held

ANSWER_PATIENCE = 5.0
"""Seconds for which an active supervisor's answer is waited for. It looks four times a second, and its bot answers."""


class Say(Protocol):
    """Writes a line into the log."""

    def __call__(self, text: str, *, level: int = logging.INFO) -> None:
        """Write it."""


class Neighbourhood:
    """The others, and this one among them."""

    def __init__(self, membership: Membership, ledger: Path, *, say: Say) -> None:
        """``ledger`` is the file that all share; the bots' files lie beside it."""
        self._register = Register(membership)
        self._exchange = Exchange(membership.directory, membership.number)
        self._ledger, self._say = ledger, say
        self._others: Sequence[Neighbour] = ()
        self._found: Neighbours | None = None
        self._asked: dict[int, float] = {}
        """Our bots for which the others are asked, by generation, and since when one could have answered."""
        self._lost = False
        """Whether our file in the register is gone, and that has been said."""
        self._answered: set[int] = set()
        """Bots of others, by number, that were told what to do."""

    @property
    def text(self) -> str:
        """Return who is there, and how these are, as the log says it; empty where nobody is."""
        return _others_text(self._others) if self._others else ""

    # Before there is a bot.

    async def wait_for_ends(self, *, stopped: Callable[[], bool]) -> bool:
        """Wait until the bots of supervisors that died a moment ago are dead, too. False if we were told to stop."""
        deadline = time.monotonic() + neighbours.END_PATIENCE
        while not stopped():
            self._others = self._seen()
            ending = [other.number for other in self._others if not (other.alive or other.bot_gone)]
            if not ending:
                return True
            if time.monotonic() > deadline:
                self._say(
                    f"the bot of supervisor {ending[0]}, which is dead, has not ended after "
                    f"{neighbours.END_PATIENCE:g} s: while both run, some events may be handled twice",
                    level=logging.WARNING,
                )
                return True
            await anyio.sleep(LOOK_SECONDS)
        return False

    def at_the_beginning(self) -> tuple[Neighbours, bool]:
        """Return how things are as the first bot begins, and whether it waits until it is called."""
        found = neighbours.verdict(self._register.number, self._others)
        waits = neighbours.must_wait(self._register.number, self._others)
        text = f"supervisor {self._register.number} of those who share the ledger; {_others_text(self._others)}"
        self._say(text if waits else f"{text}: the bot will be active as soon as it is ready")
        return found, waits

    # From then on.

    async def watch(self, slot: Slot) -> None:
        """Look at the others again and again: see `neighbours` for why no event does."""
        failed = False
        while True:
            try:
                self._look_around(slot)
                failed = False
            except OSError as error:
                if not failed:
                    self._say(f"the other supervisors cannot be looked at: {error}", level=logging.ERROR)
                failed = True
            await anyio.sleep(LOOK_SECONDS)

    def look_now(self, slot: Slot) -> None:
        """Look at the others before something is decided that they matter to."""
        with contextlib.suppress(OSError):  # `watch` says so
            self._look_around(slot)

    def _look_around(self, slot: Slot) -> None:
        if self._register.is_lost() and not self._lost:
            self._lost = True
            self._say(
                "our file in the register has been removed: other supervisors do not see this one, and two bots may "
                "handle the same events. Restart this supervisor, and leave the directory alone",
                level=logging.ERROR,
            )
        before = _others_text(self._others)
        self._others = self._seen(keep_dead=slot.state.yielding)
        if before != (now := _others_text(self._others)):
            still = any(other.still for other in self._others)
            self._say(f"beside us: {now}", level=logging.WARNING if still else logging.INFO)
        for number, why in self._register.words.news():
            self._say(f"supervisor {number} has no bot that could take over: {why}", level=logging.WARNING)
        found = neighbours.verdict(self._register.number, self._others)
        if found != self._found:
            self._found = found
            slot.happen(found)
        self._answer_others(slot)
        self._take_answers(slot)
        self.tell(slot)

    def _seen(self, *, keep_dead: bool = False) -> list[Neighbour]:
        """Return the others, and whose bot with sessions is dead."""
        others = self._register.look(keep_dead=keep_dead)
        return [replace(other, bot_gone=self._bot_gone(other)) for other in others]

    def _bot_gone(self, other: Neighbour) -> bool:
        """Say whether a bot is dead: where its supervisor is dead too, or has no bot that serves in its place."""
        if not other.alive:
            files = sessionfiles.session_files(self._ledger)
            return not any(is_held(file) for whose, file in files if supervisor_of(whose) == other.number)
        if not other.bot or other.stage in (Stage.ACTIVE, Stage.STARTING):
            return False
        file = Path(sessions_path(str(self._ledger), other.bot))
        return file.exists() and not is_held(file)

    def tell(self, slot: Slot) -> None:
        """Tell the others how things are with us."""
        state = slot.state
        with contextlib.suppress(OSError):
            self._register.tell(neighbours.stage_of(state), holder=neighbours.holder_of(state))
            self._register.words.leave(state.fault)

    def tell_failure(self, why: str) -> None:
        """Tell the others why there is no bot."""
        with contextlib.suppress(OSError):
            self._register.words.leave(why)

    # What bots of two supervisors are told of each other's sessions.

    def ask(self, generation: int, wants: Wants) -> bool:
        """Ask the others what a new bot of ours is to do; return whether anybody could answer."""
        if not neighbours.may_answer(self._others):
            return False
        try:
            self._exchange.ask(self._bot(generation), wants)
        except OSError as error:
            self._say(f"the other supervisors cannot be asked for their sessions: {error}", level=logging.WARNING)
            return False
        self._asked[generation] = time.monotonic()
        return True

    def keeps_apart(self, mirrors: Collection[int]) -> str | None:
        """Return why our sessions cannot be moved beside the others, None if the others' bots are all these mirrors."""
        theirs = {supervisor_of(bot) for bot in mirrors}
        apart = next((other.number for other in self._others if other.alive and other.number not in theirs), None)
        return None if apart is None else f"supervisor {apart}, which shares the ledger, mirrors none of ours"

    def answer(self, bot: int, message: ToChild) -> None:
        """Tell another supervisor's bot what to do."""
        if isinstance(message, Mirror | Overlap):
            try:
                self._exchange.answer(bot, message)
            except OSError as error:
                self._say(f"another supervisor's bot cannot be answered: {error}", level=logging.WARNING)

    def _bot(self, generation: int) -> int:
        return claimer(self._register.number, generation)

    def _answer_others(self, slot: Slot) -> None:
        questions = self._exchange.questions()
        for bot in [bot for bot in self._answered if self._is_gone(bot, questions)]:
            self._answered.discard(bot)
            slot.neighbour_left(bot)
        well = {other.number for other in self._others if other.well}
        for bot, file in questions.items():
            if bot in self._answered or supervisor_of(bot) not in well or not slot.has_sessions:
                continue
            if (wants := exchange.wants_in(file)) is not None:
                self._answered.add(bot)
                slot.neighbour_asks(bot, wants, path=stream_path(str(self._ledger), bot))

    def _is_gone(self, bot: int, questions: dict[int, Path]) -> bool:
        """Say whether a bot of another supervisor has ended: its supervisor, or its own lock, says so."""
        if bot not in questions:
            return True
        file = Path(sessions_path(str(self._ledger), bot))
        return file.exists() and not is_held(file)

    def _take_answers(self, slot: Slot) -> None:
        for generation, since in list(self._asked.items()):
            bot = self._bot(generation)
            if generation not in slot.generations:
                del self._asked[generation]
                self._exchange.withdraw(bot)
            elif since and (answer := self._answer_to(bot, since)) is not None:
                self._asked[generation] = 0.0  # the question stays, to say that the bot lives
                slot.neighbour_answers(generation, answer)

    def _answer_to(self, bot: int, since: float) -> Mirror | Overlap | None:
        try:
            answer = self._exchange.answer_to(bot)
        except ValueError as error:
            return Overlap(why=f"the other supervisor's answer cannot be read: {error}")
        if answer is not None:  # each sees the common directory under a name of its own
            path = stream_path(str(self._ledger), bot) if answer.path else ""
            return msgspec.structs.replace(answer, path=path)
        if not neighbours.may_answer(self._others):
            return Overlap(why="")
        active = [other for other in self._others if other.well and other.stage in (Stage.ACTIVE, Stage.YIELDING)]
        if active and time.monotonic() - since > ANSWER_PATIENCE:
            return Overlap(why=f"supervisor {active[0].number} does not answer")
        return None


def _others_text(others: Sequence[Neighbour]) -> str:
    words = [f"{other.number} ({_how(other)})" for other in others]
    return f"supervisor {', '.join(words)}" if words else "nobody"


def _how(other: Neighbour) -> str:
    if not other.alive:
        return "dead"
    still = f", no sign of life for {neighbours.STILL_LOOKS * LOOK_SECONDS:g} s" if other.still else ""
    return f"{other.stage.name.lower()}{still}"
