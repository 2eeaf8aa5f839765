"""The deck of the shipped bot: what a name finds, and that no text can break the search."""

from __future__ import annotations

import gc
import sqlite3
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.bot.bastion.cards import Card, CardDataError, Deck, fold, read_cards

HEADER = "id\tname\tkind\tcost\trarity\ttext\tlore\n"


@pytest.fixture(scope="module")
def deck() -> Iterator[Deck]:
    deck = Deck.shipped()
    yield deck
    deck.close()


def names(cards: list[Card] | tuple[Card, ...]) -> list[str]:
    return [card.name for card in cards]


def all_cards(deck: Deck) -> list[Card]:
    return deck.search("", limit=len(deck))


def test_the_shipped_deck_has_over_a_hundred_whole_cards_that_fit_a_button(deck: Deck) -> None:
    cards = all_cards(deck)
    assert len(cards) == len(deck) > 100
    assert all(card.text and card.lore and card.kind and card.rarity for card in cards)
    assert all(len(f"bastion:more:{card.id}") <= 100 and len(card.name) <= 60 for card in cards)


def test_every_card_is_found_by_its_own_name_first(deck: Deck) -> None:
    for card in all_cards(deck):
        assert deck.get(card.id) == deck.named(card.name) == deck.find(card.name).card == card
        assert deck.search(card.name)[0] == deck.complete(card.name)[0] == card


@pytest.mark.parametrize("name", ["EMBER WARDEN", "ember  warden", "Ember-Warden!", "“Ember Warden”", "Émber wardeñ"])
def test_case_accents_and_punctuation_make_no_other_name(deck: Deck, name: str) -> None:
    found = deck.named(name)
    assert found is not None
    assert found.name == "Ember Warden"


def test_an_apostrophe_may_be_left_out_or_curly(deck: Deck) -> None:
    assert deck.named("herons patience") == deck.named("Heron’s Patience") == deck.named("Heron's Patience") is not None


def test_an_accented_name_is_found_without_its_accent(deck: Deck) -> None:
    assert names(deck.search("iva of"))[0] == "Íva of the Quiet Shore"


def test_a_prefix_finds_before_words_in_the_text_do(deck: Deck) -> None:
    found = names(deck.search("drown"))
    assert found[0] == "Drowned Orchard"
    assert "Tidewrit Clerk" in found, "its text speaks of drowning"


def test_a_word_of_the_name_ranks_above_the_same_word_in_a_text() -> None:
    deck = Deck(
        read_cards(
            HEADER
            + "a\tOld Oak\tAlly\t1\tcommon\tLantern lantern lantern.\tLore.\n"
            + "b\tBlue Lantern\tRelic\t1\tcommon\tA long text that speaks of other things entirely.\tLore.\n"
        )
    )
    assert names(deck.search("lantern")) == ["Blue Lantern", "Old Oak"]
    deck.close()


def test_words_may_come_in_any_order(deck: Deck) -> None:
    assert names(deck.search("lock apprentice")) == ["Lockwright's Apprentice"]
    assert names(deck.complete("bell ninth")) == ["The Ninth Bell"]


def test_completion_looks_at_names_alone(deck: Deck) -> None:
    assert deck.search("fallen allies")
    assert all("fallen" in fold(card.name) for card in deck.complete("fallen"))


def test_an_unambiguous_beginning_means_the_card(deck: Deck) -> None:
    assert deck.find("candle reg").card == deck.named("Candle Regent")


def test_an_ambiguous_beginning_means_no_card_and_offers_all(deck: Deck) -> None:
    found = deck.find("ember")
    assert found.card is None
    assert sorted(names(found.close)) == ["Ember Almanac", "Ember Warden", "Emberwake"]


@pytest.mark.parametrize(("typed", "meant"), [("embr warden", "Ember Warden"), ("the nineth bell", "The Ninth Bell")])
def test_a_slip_of_the_finger_is_forgiven(deck: Deck, typed: str, meant: str) -> None:
    assert deck.find(typed).card == deck.named(meant)
    assert names(deck.search(typed))[0] == meant


def test_a_far_off_name_is_only_suggested(deck: Deck) -> None:
    found = deck.find("glas hero bird")
    assert found.card is None
    assert "Glass Heron" in names(found.close)


def test_a_name_like_none_finds_nothing(deck: Deck) -> None:
    assert deck.find("qqqqzzzz").card is None
    assert deck.find("qqqqzzzz").close == ()
    assert deck.search("qqqqzzzz") == []


@pytest.mark.parametrize(
    "query",
    [
        '"',
        "'",
        "ember OR",
        "NEAR(ember, 3)",
        "name:ember",
        "{name} : ember",
        "ember*",
        "-ember",
        "^ember",
        "(",
        "a\0b",
        "\ud800",
    ],
)
def test_search_syntax_is_only_text(deck: Deck, query: str) -> None:
    for found in (deck.search(query), deck.complete(query), list(deck.find(query).close)):
        assert all(isinstance(card, Card) for card in found)


@given(query=st.text() | st.text(alphabet="ember wardn\"'*:()^-+{}\0_ABORNTE\ud800\u0301İß½①") | st.text(min_size=500))
def test_no_query_can_raise_or_exceed_its_limit(deck: Deck, query: str) -> None:
    assert len(deck.search(query, limit=5)) <= 5
    assert len(deck.complete(query, limit=25)) <= 25
    assert len(deck.find(query, suggestions=3).close) <= 3
    deck.get(query)


@given(text=st.text())
def test_folding_twice_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)


def test_results_are_never_repeated(deck: Deck) -> None:
    for query in ("small god", "ember", "the", "e", "mire", ""):
        found = names(deck.search(query, limit=50))
        assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "columns"),
        ("name\tid\n", "columns"),
        (HEADER, "no card"),
        (HEADER + "a\tA\tAlly\t1\tcommon\tText.\n", "line 2: 6 columns"),
        (HEADER + "a\tA\tAlly\tone\tcommon\tText.\tLore.\n", "line 2: the cost"),
        (HEADER + "A b\tA\tAlly\t1\tcommon\tText.\tLore.\n", "line 2: the id"),
        (HEADER + "a\tA\tAlly\t1\tcommon\tT\tL\nb\ta!\tAlly\t1\tcommon\tT\tL\n", "line 3"),
    ],
)
def test_a_damaged_data_file_is_refused_with_the_line_that_is_wrong(text: str, said: str) -> None:
    with pytest.raises(CardDataError, match=said):
        read_cards(text)


def test_a_forgotten_deck_closes_its_database() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deck = Deck(read_cards(HEADER + "a\tA\tAlly\t1\tcommon\tText.\tLore.\n"))
        close = deck.close
        del deck
        gc.collect()
    assert not close.alive


def test_a_closed_deck_can_be_closed_again_but_not_asked() -> None:
    deck = Deck(read_cards(HEADER + "a\tA\tAlly\t1\tcommon\tText.\tLore.\n"))
    deck.close()
    deck.close()
    with pytest.raises(sqlite3.ProgrammingError):
        deck.get("a")
