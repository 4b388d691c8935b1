"""The judge: compares what the ledger has with what the journals say, and both with the orders."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from amends.broker.port import Broker
from amends.domain import events as e
from amends.domain import messages as m
from amends.domain.envelope import RecordedEvent
from amends.domain.ids import InstanceId
from amends.domain.status import Status, ending_of
from amends.sagas import journal
from amends.testing.invariants import check_journal
from tests.acceptance.ledger import Call, Entry, Ledger
from tests.acceptance.ledger_app import Order, app


def key_of(name: str, step: e.StepScheduled) -> str:
    """The idempotency key of a step, as the engine promises it."""
    of_itself = f"{name}/{step.seq}"
    return of_itself if step.of is None else f"{name}/{step.of}/{step.activity}"


class Record:
    """One instance by its journal: what it asked for, and how it ended."""

    def __init__(self, name: str, events: Sequence[e.JournalEvent]) -> None:
        self.name = name
        self.events = events
        self.effects: dict[str, Any] = {}
        """The input of each step that may have an effect, by its idempotency key."""
        self.undos: dict[str, str] = {}
        """The step that each undo is of; both by their idempotency keys."""
        self.asked: set[tuple[str, int]] = set()
        """Every attempt that may have run: the key, and the attempt's number."""
        self._keys: dict[int, str] = {}
        self._failed: Counter[int] = Counter()
        for event in events:
            self._take(event)
        endings = [ending for ending in map(ending_of, events) if ending is not None]
        assert len(endings) == 1, f"{name} has {len(endings)} ends"
        self.ending = endings[0]

    def _take(self, event: e.JournalEvent) -> None:
        if isinstance(event, e.StepScheduled):
            self._schedule(event)
        elif isinstance(event, e.StepAttemptFailed):
            self._failed[event.seq] = event.attempt
        elif isinstance(event, e.StepRetried):
            self.asked.add((self._keys[event.seq], event.attempt))
        elif isinstance(event, e.StepResolved):
            self.asked.add((self._keys[event.seq], self._failed[event.seq] + 1))

    def _schedule(self, event: e.StepScheduled) -> None:
        key = key_of(self.name, event)
        if event.kind is e.StepKind.UNDO:
            self.undos[key] = f"{self.name}/{event.of}"
        elif event.kind is e.StepKind.STEP:
            self.effects[key] = event.input
        self._keys[event.seq] = key
        self.asked.add((key, 1))

    def has(self, kind: type[e.JournalEvent]) -> bool:
        return any(isinstance(event, kind) for event in self.events)


def records_of(records: Iterable[RecordedEvent]) -> dict[str, Record]:
    """By id. Each journal is judged by itself on the way."""
    journals: dict[str, list[RecordedEvent]] = defaultdict(list)
    for record in records:
        journals[record.stream].append(record)
    found = {}
    for stream, events in journals.items():
        instance = InstanceId.of_stream(events[0].stream)
        assert instance is not None, stream
        # What a late report leads to may still be going on after the end.
        is_late = any(event.type == e.StepReportedLate.__name__ for event in events)
        check_journal(app, events, is_done=not is_late)
        found[instance.id] = Record(str(instance), [journal.decode(event) for event in events])
    return found


class Books:
    """The ledger's entries and calls, by idempotency key."""

    def __init__(self, ledger: Ledger) -> None:
        self.entries: dict[str, Entry] = {}
        self.reversals: dict[str, list[Entry]] = defaultdict(list)
        self.calls: dict[str, list[Call]] = defaultdict(list)
        for entry in ledger.entries():
            if entry.reverses is None:
                self.entries[entry.key] = entry
            else:
                self.reversals[entry.reverses].append(entry)
        for call in ledger.calls():
            self.calls[call.key].append(call)

    def total(self) -> int:
        everything = chain(self.entries.values(), *self.reversals.values())
        return sum(entry.cents for entry in everything)

    def standing(self) -> dict[str, dict[str, Entry]]:
        """The entries that were not reversed, of each instance."""
        found: dict[str, dict[str, Entry]] = defaultdict(dict)
        for key, entry in self.entries.items():
            if key not in self.reversals:
                found[key.rpartition("/")[0]][key] = entry
        return found


async def refused_signals(broker: Broker) -> set[str]:
    """Those that came too late. Nothing else was put aside, but for decisions about a step that came
    after a copy of its command had gone through.
    """
    found = set()
    for letter in await broker.dead_letters(limit=10**6):
        message = m.decode_message(letter.message.type, letter.message.body)
        assert isinstance(message, m.DeliverSignal | m.ResolveStep), letter
        assert letter.reason == "refused", letter
        if isinstance(message, m.DeliverSignal):
            found.add(message.payload)
    return found


def judge(
    orders: Mapping[str, Order], records: Mapping[str, Record], signals: Mapping[str, set[str]],
    refused: set[str], books: Books,
) -> None:  # fmt: skip
    """Raises AssertionError.

    `signals` are the payloads that were sent to each id, `refused` those that came too late.
    """
    assert records.keys() == orders.keys(), "every order has its instance"
    judge_books(records.values(), books)
    standing = books.standing()
    for id, order in orders.items():
        record = records[id]
        judge_end(order, record, standing[record.name])
        judge_pause(order, record, books)
        judge_cancel(record)
        judge_signals(record, signals.get(id, set()), refused)
    assert books.total() == 0, f"{books.total()} cents were made or lost"


def judge_books(records: Iterable[Record], books: Books) -> None:
    """Nothing was done that is not on record, and nothing undone twice."""
    effects: dict[str, Any] = {}
    undos: dict[str, str] = {}
    asked: set[tuple[str, int]] = set()
    for record in records:
        effects |= record.effects
        undos |= record.undos
        asked |= record.asked
    for key, entry in books.entries.items():
        booked = {"account": entry.account, "cents": entry.cents}
        assert effects.get(key) == booked, f"{key} is booked as {booked}: no journal knows of that"
    for origin, reversals in books.reversals.items():
        keys = [entry.key for entry in reversals]
        assert len(keys) == 1, f"{origin} is undone {len(keys)} times, by {keys}"
        assert undos.get(keys[0]) == origin, f"{keys[0]} undoes {origin}: no journal knows of that"
    for key, calls in books.calls.items():
        for call in calls:
            assert (key, call.attempt) in asked, f"{key}: attempt {call.attempt} is not on record"


def judge_end(order: Order, record: Record, standing: Mapping[str, Entry]) -> None:
    """What was done stands whole, or not at all."""
    name, ending = record.name, record.ending
    if ending.status is not Status.COMPLETED:
        assert not standing, f"{name} is {ending.status}, and {sorted(standing)} stand"
        return
    receipts = set(ending.result)
    assert standing.keys() == receipts, (
        f"{name} is completed with {sorted(receipts)}, and {sorted(standing)} stand"
    )
    moved = {entry.account: entry.cents for entry in standing.values()}
    payees = set(order.payees)
    if name.startswith("detour/"):
        payees &= moved.keys()
        assert len(payees) == 1, f"{name} paid {payees}"
    wanted = {order.payer: -order.cents * len(payees), **dict.fromkeys(payees, order.cents)}
    assert moved == wanted, f"{name} moved {moved}, and not {wanted}"
    # The slow pivot of a purchase is found out about by its probe.
    cannot = "closed" if name.startswith("purchase/") else ("closed", "slow", "cut")
    assert not any(payee.startswith(cannot) for payee in payees), f"{name} paid {payees}"


def judge_pause(order: Order, record: Record, books: Books) -> None:
    """By the bank's clock, the last payment comes no earlier than it may."""
    if not record.name.startswith(("transfer/", "purchase/")):
        return
    keys = list(record.effects)
    if len(keys) != 1 + len(order.payees) or keys[-1] not in books.calls:
        return
    before, after = books.entries[keys[-2]].at, books.calls[keys[-1]][0].at
    assert after - before >= order.pause_s, f"{record.name} went on after {after - before:.4f} s"


def judge_cancel(record: Record) -> None:
    """Who is asked to stop does so, unless it is past its pivot or on its way back already."""
    requests = [event for event in record.events if isinstance(event, e.CancelRequested)]
    assert len(requests) <= 1, f"{record.name} was cancelled {len(requests)} times"
    compensation = [event for event in record.events if isinstance(event, e.CompensationStarted)]
    before = record.events[: record.events.index(requests[0])] if requests else ()
    if requests and not (compensation and compensation[0] in before):
        assert record.ending.status is Status.CANCELLED or has_pivoted(record), (
            f"{record.name} was asked to stop, and is {record.ending.status}"
        )
    if record.ending.status is Status.CANCELLED:
        assert requests, f"nobody cancelled {record.name}"


def has_pivoted(record: Record) -> bool:
    pivots = {
        event.seq for event in record.events if isinstance(event, e.StepScheduled) and event.pivot
    }
    return any(
        isinstance(event, e.StepCompleted) and event.seq in pivots for event in record.events
    )


def judge_signals(record: Record, sent: set[str], refused: set[str]) -> None:
    """Each arrives once, or is kept for a person because it came too late."""
    arrived = [event.payload for event in record.events if isinstance(event, e.SignalReceived)]
    assert len(arrived) == len(set(arrived)), f"{record.name} received {arrived}"
    assert set(arrived) == sent - refused, f"{record.name}: {sent} were sent"
