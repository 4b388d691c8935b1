"""The part of a queue that is in memory, alone: what it is given, and what it reads, in any order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from amends.broker import embedded_queue
from amends.broker.embedded_queue import NO_ROW, Hands, Held, Queue, State, columns_of
from amends.testing.contracts.data import new_message

NUMBER = 3


class Rows:
    """The rows of a queue, as a query gives them."""

    def __init__(self) -> None:
        self.queue = Queue("q", NUMBER)
        self.rows: dict[int, tuple[Any, ...]] = {}
        self.queries = 0

    def put(self, place: int) -> int:
        """A committed message, of which the queue has not heard yet."""
        seq = self.queue.base + place
        self.rows[seq] = (seq, 0, None, *columns_of(new_message("q", str(place))))
        return seq

    def query(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        self.queries += 1
        after, before, limit = parameters
        found = sorted(seq for seq in self.rows if after < seq < before)
        return [self.rows[seq] for seq in found[:limit]]

    def hands(self, limit: int) -> Hands:
        hands = Hands(limit, self.queue)
        self.queue.join(hands)
        return hands

    def receive(self, hands: Hands) -> list[int]:
        """The places of what a consumer gets."""
        self.queue.fill(hands, self.query)
        return [delivery.token.row - self.queue.base for delivery in hands.receive()]

    def hand_over(self, place: int) -> None:
        self.queue.hand_over(self.queue.base + place, new_message("q", str(place)))


def test_while_nothing_waits_nothing_is_read() -> None:
    rows = Rows()
    hands = rows.hands(10)
    assert rows.receive(hands) == []
    assert rows.queries == 1
    for place in range(1, 6):
        rows.put(place)
        rows.hand_over(place)
    assert rows.receive(hands) == [1, 2, 3, 4, 5]
    assert rows.queries == 1


def test_what_was_read_before_it_was_handed_over_comes_once() -> None:
    """A row is there from its commit on, and its commit is told a moment later."""
    rows = Rows()
    hands = rows.hands(10)
    rows.put(1)
    assert rows.receive(hands) == [1]
    rows.hand_over(1)
    assert rows.receive(hands) == []


def finish(rows: Rows, hands: Hands) -> None:
    for held in list(hands.received):
        rows.rows.pop(held.row, None)
        held.settle(State.DONE)


def test_what_finds_no_room_waits_in_memory_and_in_order() -> None:
    rows = Rows()
    hands = rows.hands(2)
    rows.receive(hands)
    for place in range(1, 6):
        rows.put(place)
        rows.hand_over(place)
    assert rows.receive(hands) == [1, 2]
    finish(rows, hands)
    rows.put(6)
    rows.hand_over(6)
    assert rows.receive(hands) == [3, 4]
    finish(rows, hands)
    assert rows.receive(hands) == [5, 6]
    assert rows.queries == 1


@pytest.mark.parametrize("bound", ["AHEAD_MAX", "AHEAD_BYTES_MAX"])
def test_what_finds_no_room_in_memory_either_is_read_later_and_in_order(
    bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_queue, bound, 1)
    rows = Rows()
    hands = rows.hands(2)
    rows.receive(hands)
    for place in range(1, 6):
        rows.put(place)
        rows.hand_over(place)
    assert len(rows.queue.ahead) == 1
    seen = []
    while left := rows.receive(hands):
        seen += left
        finish(rows, hands)
    assert seen == [1, 2, 3, 4, 5]
    assert rows.queries > 1


def test_what_is_handed_back_comes_before_what_waits_in_memory() -> None:
    rows = Rows()
    hands = rows.hands(2)
    rows.receive(hands)
    for place in range(1, 5):
        rows.put(place)
        rows.hand_over(place)
    assert rows.receive(hands) == [1, 2]
    for held in list(hands.received):
        held.settle(State.RETURNED)
    assert rows.receive(hands) == [1, 2]
    finish(rows, hands)
    assert rows.receive(hands) == [3, 4]


def test_what_waits_in_memory_is_left_for_the_next_consumer() -> None:
    rows = Rows()
    hands = rows.hands(1)
    rows.receive(hands)
    for place in range(1, 4):
        rows.put(place)
        rows.hand_over(place)
    assert rows.receive(hands) == [1]
    finish(rows, hands)
    rows.queue.leave(hands)
    assert rows.receive(rows.hands(5)) == [2, 3]


@pytest.mark.parametrize("looks", [1, 2])
def test_what_rows_leave_of_their_share_goes_to_what_waits_in_memory(looks: int) -> None:
    """Each look at rows that are not there uses up one of their turns."""
    rows = Rows()
    hands = rows.hands(1)
    for _ in range(looks):
        rows.queue.look_again()
        assert rows.receive(hands) == []
    reply = Held(new_message("q"), NO_ROW, rows.queue)
    for held in (Held(new_message("q"), NO_ROW, rows.queue), reply):
        rows.queue.put(held)
    rows.receive(hands)
    rows.queue.look_again()
    finish(rows, hands)
    rows.queue.fill(hands, rows.query)
    assert hands.buffer == [reply]


def test_rows_that_are_held_do_not_hide_those_behind_them() -> None:
    rows = Rows()
    hands = rows.hands(10)
    for place in range(1, 9):
        rows.put(place)
    assert rows.receive(hands) == list(range(1, 9))
    first = min(hands.received, key=lambda held: held.row)
    last = max(hands.received, key=lambda held: held.row)
    first.settle(State.RETURNED)
    last.settle(State.RETURNED)
    assert sorted(rows.receive(hands)) == [1, 8]


def test_a_stopped_consumer_is_given_nothing() -> None:
    rows = Rows()
    stopped, other = rows.hands(10), rows.hands(10)
    rows.put(1)
    rows.queue.leave(stopped)
    assert rows.receive(stopped) == []
    assert rows.receive(other) == [1]


def check(rows: Rows, consumers: list[Hands]) -> None:
    held = [item.row for hands in consumers for item in (*hands.received, *hands.buffer)]
    assert len(held) == len(set(held)), "held twice"
    assert set(held) == set(rows.queue.held)
    assert all(hands.room >= 0 for hands in consumers)


@pytest.mark.parametrize("ahead_max", [0, 2, 1000])
def test_whatever_happens_each_message_is_held_by_one_consumer_at_most(
    ahead_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_queue, "AHEAD_MAX", ahead_max)
    for seed in range(200):
        rng = random.Random(seed)
        rows = Rows()
        consumers = [rows.hands(rng.randrange(1, 5)) for _ in range(rng.randrange(1, 4))]
        committed, told, done = 0, 0, set[int]()

        for _ in range(200):
            hands = rng.choice(consumers)
            match rng.randrange(6):
                case 5:
                    rows.queue.look_again()
                case 0:
                    committed += 1
                    rows.put(committed)
                case 1 if told < committed:
                    told += 1
                    rows.hand_over(told)
                case 2:
                    rows.receive(hands)
                case 3 if hands.received:
                    held = rng.choice(sorted(hands.received, key=lambda held: held.row))
                    done.add(held.row)
                    del rows.rows[held.row]
                    held.settle(State.DONE)
                case 4 if hands.received:
                    held = rng.choice(sorted(hands.received, key=lambda held: held.row))
                    held.settle(State.RETURNED)
            check(rows, consumers)
        while told < committed:
            told += 1
            rows.hand_over(told)
        while rows.rows:
            for hands in consumers:
                rows.receive(hands)
                check(rows, consumers)
                for held in list(hands.received):
                    assert held.row not in done, f"came back (seed {seed})"
                    done.add(held.row)
                    del rows.rows[held.row]
                    held.settle(State.DONE)
        assert len(done) == committed, f"lost (seed {seed})"
