"""The cards: read from ``cards.tsv`` into an in-memory SQLite database with full-text search (FTS5).

Knows the data file, the database and how a name is looked for. Knows nothing of Discord: no markup, no embeds, no
limits of a message. The data is read-only and built anew at every start (120 cards: 8 ms), so there is no file to
migrate or to share between two processes of the bot.

Every call is synchronous and meant to run on the event loop. Measured on one core of a 2-core machine (Python 3.11,
SQLite 3.40), median and 99th percentile: `Deck.get` 4 and 7 us; `Deck.search` and `Deck.find` 30 and 80 us for a name,
0.22 and 0.35 ms for a misspelt one, 0.47 and 0.66 ms for 64 letters of nonsense, the worst that a user can send.
"""

from __future__ import annotations

import csv
import difflib
import heapq
import re
import sqlite3
import unicodedata
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from io import StringIO
from itertools import islice, pairwise
from typing import Final

MAX_QUERY: Final = 64
"""Characters of a query that are looked at. The longest card name has 23; the rest only costs time."""

MAX_WORDS: Final = 8
"""Words of a query that reach the full-text index. No card name has more than 5."""

CLOSE: Final = 0.6
"""Similarity (`difflib.SequenceMatcher.ratio`, 0 to 1) from which a name is suggested for a misspelt one."""

SURE: Final = 0.85
"""Similarity from which a misspelt name is answered as if it were spelt right: about one wrong letter in seven."""

CANDIDATES: Final = 12
"""Names that are measured for similarity, out of all."""

_COLUMNS: Final = ("id", "name", "kind", "cost", "rarity", "text", "lore")
_SELECT: Final = "SELECT card.id, card.name, card.kind, card.cost, card.rarity, card.text, card.lore FROM card "
_WORD: Final = re.compile(r"[^\W_]+")
_APOSTROPHES: Final = str.maketrans("", "", "'’`")


class CardDataError(ValueError):
    """The data file of the cards is not what it should be."""


@dataclass(frozen=True, slots=True)
class Card:
    """One card. ``id`` never changes once released: it is in the custom_id of buttons already sent."""

    id: str
    name: str
    kind: str
    cost: int
    rarity: str
    text: str
    lore: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a name led to: the card, or the cards that it may have meant (nearest first, perhaps none)."""

    card: Card | None
    close: tuple[Card, ...] = ()


def fold(text: str) -> str:
    """Reduce a text to its words, lower case, without accents and punctuation, one space between two.

    Total: any string gives a string, at worst the empty one. Two names are the same if they fold to the same.
    """
    decomposed = unicodedata.normalize("NFKD", text.translate(_APOSTROPHES)).casefold()
    bare = "".join(char for char in decomposed if not unicodedata.combining(char))
    return " ".join(_WORD.findall(bare))


def _pairs(folded: str) -> frozenset[str]:
    return frozenset(map("".join, pairwise(f" {folded} ")))


def read_cards(text: str) -> list[Card]:
    """Read a tab-separated file with a header line. Raises `CardDataError` naming the line that is wrong."""
    rows = csv.reader(StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    if tuple(next(rows, ())) != _COLUMNS:
        raise CardDataError(f"the first line must name the columns {', '.join(_COLUMNS)}")
    cards: list[Card] = []
    seen: set[str] = set()
    for number, row in enumerate(rows, start=2):
        card = _read_row(row, number=number)
        for key in (card.id, fold(card.name)):
            if not key or key in seen:
                raise CardDataError(f"line {number}: the id or the name of {card.name!r} is empty or taken")
        seen.update({card.id, fold(card.name)})
        cards.append(card)
    if not cards:
        raise CardDataError("there is no card in it")
    return cards


def _read_row(row: list[str], *, number: int) -> Card:
    if len(row) != len(_COLUMNS):
        raise CardDataError(f"line {number}: {len(row)} columns, {len(_COLUMNS)} expected")
    card_id, name, kind, cost, rarity, text, lore = row
    if not re.fullmatch(r"[a-z0-9-]{1,64}", card_id):
        raise CardDataError(f"line {number}: the id {card_id!r} is not made of a-z, 0-9 and - (at most 64)")
    if not cost.isdecimal():
        raise CardDataError(f"line {number}: the cost {cost!r} is not a whole number")
    return Card(id=card_id, name=name, kind=kind, cost=int(cost), rarity=rarity, text=text, lore=lore)


class Deck:
    """All cards, searchable. Use it from the thread that made it.

    ``close()`` frees the database, may be called twice, and is called when the object goes.
    """

    def __init__(self, cards: Iterable[Card]) -> None:
        self._db = sqlite3.connect(":memory:")
        self._names: dict[str, str] = {}
        self._pairs: dict[str, frozenset[str]] = {}
        self.close = weakref.finalize(self, self._db.close)
        self._fill(list(cards))

    @classmethod
    def shipped(cls) -> Deck:
        """Open the deck that comes with the bot. Raises `CardDataError` if its file is damaged."""
        data = resources.files(__package__).joinpath("cards.tsv").read_text(encoding="utf-8")
        return cls(read_cards(data))

    def _fill(self, cards: list[Card]) -> None:
        self._db.execute(
            "CREATE TABLE card (number INTEGER PRIMARY KEY, id TEXT UNIQUE, folded TEXT UNIQUE,"
            " name TEXT, kind TEXT, cost INTEGER, rarity TEXT, text TEXT, lore TEXT)"
        )
        # The index holds folded text, so that FTS5 need not agree with `fold` on what a letter is.
        self._db.execute("CREATE VIRTUAL TABLE card_words USING fts5(name, kind, text, tokenize = 'unicode61')")
        for number, card in enumerate(cards, start=1):
            folded = fold(card.name)
            self._names[folded] = card.id
            self._pairs[folded] = _pairs(folded)
            self._db.execute(
                "INSERT INTO card VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (number, card.id, folded, card.name, card.kind, card.cost, card.rarity, card.text, card.lore),
            )
            self._db.execute(
                "INSERT INTO card_words (rowid, name, kind, text) VALUES (?, ?, ?, ?)",
                (number, folded, fold(card.kind), fold(card.text)),
            )
        self._db.commit()

    def __len__(self) -> int:
        return len(self._names)

    def get(self, card_id: str) -> Card | None:
        """Return the card with this id, or None."""
        return next(self._select("WHERE id = ?", card_id), None) if card_id.isascii() else None

    def named(self, name: str) -> Card | None:
        """Return the card of exactly this name (case, accents and punctuation aside), or None."""
        card_id = self._names.get(fold(name[:MAX_QUERY]))
        return None if card_id is None else self.get(card_id)

    def search(self, query: str, *, limit: int = 10) -> list[Card]:
        """Find cards for any text: exact name, then prefix of a name, then words in name, kind or text (bm25).

        Only if none of these finds a card, names that look alike. Never raises, whatever the query. An empty one
        (nothing but punctuation) gives the first cards by name.
        """
        return self._search(query, limit=limit, column=None)

    def complete(self, query: str, *, limit: int = 25) -> list[Card]:
        """Like `search`, but by name alone: what to offer while a name is being typed."""
        return self._search(query, limit=limit, column="name")

    def _search(self, query: str, *, limit: int, column: str | None) -> list[Card]:
        folded = fold(query[:MAX_QUERY])
        if not folded:
            return list(self._select("ORDER BY folded LIMIT ?", limit))
        by_words = self._by_words(folded, limit=limit, column=column)
        found = self._first(limit, self._by_prefix(folded), by_words)
        return found or self._first(limit, self._cards(self._ranked_likeness(folded)))

    def find(self, name: str, *, suggestions: int = 3) -> Found:
        """Return the one card that a name means, or what comes close.

        It means a card if it is the card's name, or begins no other card's name, or is all but its name (`SURE`).
        """
        folded = fold(name[:MAX_QUERY])
        if not folded:
            return Found(None)
        if card := self.named(name):
            return Found(card)
        starting = list(islice(self._by_prefix(folded), 2))
        if starting:
            return (
                Found(starting[0]) if len(starting) == 1 else Found(None, tuple(self.complete(name, limit=suggestions)))
            )
        ranked = self._ranked_likeness(folded)
        if ranked and ranked[0][0] >= SURE:
            return Found(self.get(ranked[0][1]))
        by_words = self._by_words(folded, limit=suggestions, column="name")
        return Found(None, tuple(self._first(suggestions, by_words, self._cards(ranked))))

    def _by_prefix(self, folded: str) -> Iterator[Card]:
        # The exact name sorts first among the names that begin with it. U+10FFFF is above all that `fold` lets through.
        return self._select("WHERE folded >= ? AND folded < ? ORDER BY folded", folded, folded + "\U0010ffff")

    def _by_words(self, folded: str, *, limit: int, column: str | None = None) -> Iterator[Card]:
        # Quoted, a word is a string to FTS5 and never an operator; `fold` leaves no quote in it.
        words = " ".join(f'"{word}"*' for word in folded.split()[:MAX_WORDS])
        return self._select(
            "JOIN card_words ON card_words.rowid = card.number WHERE card_words MATCH ?"
            " ORDER BY bm25(card_words, 10.0, 3.0, 1.0), folded LIMIT ?",
            f"{{{column}}} : ({words})" if column else words,
            limit,
        )

    def _ranked_likeness(self, folded: str) -> list[tuple[float, str]]:
        """Return (similarity, card id) of the names that are `CLOSE`, nearest first.

        Only the names that share the most letter pairs are measured: `ratio` takes about 10 us a name.
        """
        pairs = _pairs(folded)
        likely = heapq.nlargest(CANDIDATES, self._names, key=lambda name: len(pairs & self._pairs[name]))
        matcher = difflib.SequenceMatcher(autojunk=False)
        matcher.set_seq2(folded)
        ranked: list[tuple[float, str]] = []
        for name in likely:
            matcher.set_seq1(name)
            ratio = matcher.ratio()
            if ratio >= CLOSE:
                ranked.append((ratio, self._names[name]))
        return sorted(ranked, key=lambda pair: (-pair[0], pair[1]))

    def _cards(self, ranked: Iterable[tuple[float, str]]) -> Iterator[Card]:
        return (card for _, card_id in ranked if (card := self.get(card_id)) is not None)

    def _first(self, limit: int, *sources: Iterator[Card]) -> list[Card]:
        """Return up to ``limit`` different cards, asking a later source only if the earlier ones did not suffice."""
        found: dict[str, Card] = {}
        for source in sources:
            for card in source:
                if len(found) >= limit:
                    return list(found.values())
                found.setdefault(card.id, card)
        return list(found.values())

    def _select(self, rest: str, *values: str | int) -> Iterator[Card]:
        for row in self._db.execute(_SELECT + rest, values):
            yield Card(*row)
