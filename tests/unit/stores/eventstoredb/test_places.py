"""What is known of streams: the latest that was seen, of those that were used last."""

from __future__ import annotations

import pytest

from amends.stores.eventstoredb import places as module
from amends.stores.eventstoredb.places import NOWHERE, Place, Places


def test_a_stream_that_nobody_saw_is_nowhere() -> None:
    assert Places().get("s") == NOWHERE
    assert NOWHERE.version == -1


def test_what_was_seen_later_counts() -> None:
    places = Places()
    for seen, known in (
        (Place(0, 4), Place(0, 4)),
        (Place(0, 2), Place(0, 4)),  # an answer that came late
        (Place(6, 5), Place(6, 5)),  # it was removed
        (Place(0, 9), Place(6, 5)),
        (Place(6, 8), Place(6, 8)),
    ):
        places.learn("s", seen)
        assert places.get("s") == known
    assert Place(6, 8).version == 2
    assert Place(6, 5).version == -1


def test_what_was_used_least_lately_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLACES_MAX", 3)
    places = Places()
    for name in ("a", "b", "c", "a", "d"):
        places.learn(name, Place(0, 1))
    assert [places.get(name) == NOWHERE for name in "abcd"] == [False, True, False, False]
