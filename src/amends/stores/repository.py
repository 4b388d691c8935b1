"""Aggregates in an event store: load, decide, append at the exact version, exactly once by key."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from inspect import isawaitable, iscoroutine
from typing import Final, Generic, NamedTuple, TypeVar
from uuid import UUID, uuid4, uuid5

from pydantic import BaseModel

from amends.domain.aggregate import Aggregate
from amends.domain.envelope import NewEvent, RecordedEvent, decode_metadata, encode_metadata
from amends.domain.ids import ExpectedVersion, StreamName
from amends.errors import (
    AppendOutcomeUnknown,
    DefinitionError,
    InvalidJournal,
    PayloadTooLarge,
    StoreUnavailable,
    UsageError,
    WrongExpectedVersion,
)
from amends.stores.port import Append, EventStore

A = TypeVar("A", bound=Aggregate)
E = TypeVar("E", bound=BaseModel)

#: Where an event's metadata has the idempotency key that it was recorded under.
IDEMPOTENCY_KEY: Final = "idempotencyKey"

#: Event ids are names in this namespace: the same decision has the same ids, in every process.
_IDS: Final = UUID("5f0c1f0e-6f0b-5a3c-9d1c-6a2f1f0b7d11")

#: Room for `<saga>/<id>/<seq>` and a suffix of the caller's.
KEY_CHARS_MAX: Final = 400
READ_EVENTS_MAX: Final = 1000
APPEND_TRIES_MAX: Final = 5
#: One append holds at most 1 MiB on EventStoreDB before 25.1, envelopes included.
APPEND_BYTES_MAX: Final = 1_000_000


class Recorded(NamedTuple):
    """What stands in the stream now because of one `execute`.

    `version` is that of the last event; when there are none, the version that was decided on.
    `already` says that an earlier call with the same key recorded them, and this one nothing.
    """

    events: tuple[BaseModel, ...]
    version: int
    already: bool

    def one(self, kind: type[E]) -> E:
        """The only event of a class among them: what a receipt is made of.

        Raises InvalidJournal when there is none or more than one: the key was used for another
        decision, or the decision records otherwise than the caller thinks.
        """
        found = [event for event in self.events if isinstance(event, kind)]
        if len(found) != 1:
            have = ", ".join(type(event).__qualname__ for event in self.events) or "no event"
            raise InvalidJournal(
                f"one {kind.__qualname__} was wanted of a decision that recorded {have}; "
                "was its idempotency key used for something else?"
            )
        return found[0]


class _Slot(Generic[A]):
    """One cached aggregate, exactly as its stream has it up to its version."""

    def __init__(self, aggregate: A, stream: StreamName) -> None:
        self.aggregate = aggregate
        self.stream = stream
        #: Under each idempotency key in the stream: the version of its first event.
        self.keys: dict[str, int] = {}
        self.lock = asyncio.Lock()
        self.users = 0


class Repository(Generic[A]):
    """Aggregates of one class in a store.

    The state that decides is never shared: a decision runs on a copy of the cached aggregate,
    which takes its place when the append succeeded and is dropped otherwise. Two calls for one id
    wait for each other here; callers in other processes are kept apart by the expected version
    alone. So any number of repositories, in any number of processes, may work on one aggregate.

    `cache_max` bounds the aggregates kept between calls. Each also remembers the idempotency keys
    of its stream (some 150 bytes each), which is what makes a repeat cheap to recognise.

    Use it in one event loop.
    """

    def __init__(self, store: EventStore, aggregate: type[A], *, cache_max: int = 1024) -> None:
        if not hasattr(aggregate, "registry"):
            raise DefinitionError(f"{aggregate.__qualname__} declares no events")
        self._store = store
        self._class = aggregate
        self._cache_max = cache_max
        self._slots: OrderedDict[str, _Slot[A]] = OrderedDict()

    async def load(self, id: str) -> A:
        """The aggregate as its stream has it now; a copy, the caller's own.

        One to which nothing has happened has version -1. Raises UsageError for a bad id,
        DecodeError, InvalidJournal (events missing), and what the store raises.
        """
        async with self._slot(id) as slot:
            await self._catch_up(slot)
            return slot.aggregate.fork()

    async def execute(
        self,
        id: str,
        decide: Callable[[A], object],
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        attempts_max: int = 10,
    ) -> Recorded:
        """Load, decide, and append what the decision recorded: atomically, or not at all.

        With an idempotency `key` this happens exactly once in the stream, across retries,
        crashes, processes and later events: a call whose key is on record does not decide, and
        returns the events that the first one recorded. So take the outcome from them, not from
        what `decide` returns, which is dropped.

        `decide` is synchronous and without effects. It runs again when another writer was
        faster, up to `attempts_max` times. When it raises, or records nothing, nothing is
        appended, and its error comes through; a key is then not used up. (So a step that must
        never happen any more is stopped by recording that under the step's own key.)

        Raises WrongExpectedVersion when every attempt lost its race (nothing written),
        AppendOutcomeUnknown (call again with the same key), PayloadTooLarge, InvalidPayload,
        DecodeError, InvalidJournal, UsageError, and what the store raises.
        """
        if key is not None:
            _check_key(key)
        async with self._slot(id) as slot:
            lost: WrongExpectedVersion | None = None
            for _ in range(attempts_max):
                await self._catch_up(slot)
                if key is not None and key in slot.keys:
                    return await self._recorded_under(key, slot)
                decided = self._decide(slot, decide)
                if not decided.pending:
                    return Recorded((), decided.version, already=False)
                append = self._append_of(slot, decided, key, correlation_id, causation_id)
                try:
                    await self._append(append)
                except WrongExpectedVersion as error:
                    lost = error
                    continue
                return _accept(slot, decided, key)
            raise lost or UsageError(f"attempts_max must be at least 1, not {attempts_max}")

    async def recorded(self, id: str, key: str) -> Recorded | None:
        """What was recorded under an idempotency key, or None: what a probe wants to know.

        Raises what `load` raises.
        """
        async with self._slot(id) as slot:
            await self._catch_up(slot)
            return await self._recorded_under(key, slot) if key in slot.keys else None

    @asynccontextmanager
    async def _slot(self, id: str) -> AsyncIterator[_Slot[A]]:
        """The cached aggregate, for one caller at a time."""
        slot = self._slots.get(id)
        if slot is None:
            stream = StreamName.of(self._class.category, id)
            slot = self._slots[id] = _Slot(self._class(id), stream)
        self._slots.move_to_end(id)
        slot.users += 1
        try:
            async with slot.lock:
                yield slot
        finally:
            slot.users -= 1
            self._evict()

    def _evict(self) -> None:
        """Drop what was used least lately; what is in use is bounded by its users."""
        while len(self._slots) > self._cache_max:
            idle = next((id for id, slot in self._slots.items() if not slot.users), None)
            if idle is None:
                return
            del self._slots[idle]

    async def _catch_up(self, slot: _Slot[A]) -> None:
        """Take in what the stream has after the cached version."""
        while True:
            start = slot.aggregate.version + 1
            page = await self._store.read(slot.stream, start=start, limit=READ_EVENTS_MAX)
            try:
                for record in page:
                    self._take_in(record, slot)
            except BaseException:
                # A handler may have stopped half-way: begin anew next time.
                slot.aggregate, slot.keys = self._class(slot.aggregate.id), {}
                raise
            if len(page) < READ_EVENTS_MAX:
                return

    def _take_in(self, record: RecordedEvent, slot: _Slot[A]) -> None:
        _check_follows(record, slot.aggregate.version + 1)
        slot.aggregate.evolve(self._class.registry.decode(record))
        key = decode_metadata(record).get(IDEMPOTENCY_KEY)
        if isinstance(key, str):
            slot.keys.setdefault(key, record.version)

    async def _recorded_under(self, key: str, slot: _Slot[A]) -> Recorded:
        """Read a decision back: its events follow each other, for one append wrote them."""
        first = slot.keys[key]
        events: list[BaseModel] = []
        while True:
            start = first + len(events)
            page = await self._store.read(slot.stream, start=start, limit=READ_EVENTS_MAX)
            for record in page:
                _check_follows(record, first + len(events))
                if decode_metadata(record).get(IDEMPOTENCY_KEY) != key:
                    return _repeat(events, first)
                events.append(self._class.registry.decode(record))
            if len(page) < READ_EVENTS_MAX:
                return _repeat(events, first)

    def _decide(self, slot: _Slot[A], decide: Callable[[A], object]) -> A:
        decided = slot.aggregate.fork()
        result = decide(decided)
        if isawaitable(result):
            if iscoroutine(result):
                result.close()
            raise UsageError(
                f"{self._class.__qualname__}: a decision is synchronous, because it may run again "
                "and must do nothing but decide. Await what it needs before execute()."
            )
        return decided

    def _append_of(
        self,
        slot: _Slot[A],
        decided: A,
        key: str | None,
        correlation_id: str | None,
        causation_id: str | None,
    ) -> Append:
        source = key or str(uuid4())
        more = {} if key is None else {IDEMPOTENCY_KEY: key}
        events = []
        for index, event in enumerate(decided.pending):
            type, version, data = self._class.registry.encode(event)
            # Named by key, place and content. Were the content left out, two callers that decide
            # differently under one key would look to the store like one caller who repeats
            # itself, and the slower would be told that its decision is on record.
            name = f"{slot.stream}\0{source}\0{index}\0{type}\0{data.decode()}"
            metadata = encode_metadata(
                correlation_id=correlation_id or source,
                causation_id=causation_id or source,
                schema_version=version,
                **more,
            )
            events.append(NewEvent(uuid5(_IDS, name), type, data, metadata))
        _check_size(slot.stream, events)
        return Append(slot.stream, events, ExpectedVersion(decided.version))

    async def _append(self, append: Append) -> None:
        """Append, and find out what happened when the store cannot say.

        Raises WrongExpectedVersion, and AppendOutcomeUnknown when it stays unknown.
        """
        unknown: AppendOutcomeUnknown | None = None
        for _ in range(APPEND_TRIES_MAX):
            try:
                await self._store.append(append)
                return
            except AppendOutcomeUnknown as error:
                unknown = error
            except StoreUnavailable:
                # It says that nothing was written, and that is true of this try only.
                if unknown is None:
                    raise
            with suppress(StoreUnavailable):
                if await self._stands(append):
                    return
            # Not there yet. The very same append may go out again: should the first still be on
            # its way, the store takes the two for one, by their ids.
        assert unknown is not None
        raise unknown

    async def _stands(self, append: Append) -> bool:
        """Whether the append is on record; WrongExpectedVersion when another one is instead."""
        start = append.expected + 1
        tail = await self._store.read(append.stream, start=start, limit=len(append.events))
        if not tail:
            return False
        if [record.id for record in tail] != [event.id for event in append.events]:
            raise WrongExpectedVersion(append.stream, append.expected, tail[-1].version)
        return True


def _accept(slot: _Slot[A], decided: A, key: str | None) -> Recorded:
    """The decision is on record: its copy becomes the cached aggregate."""
    events = decided.pending
    if key is not None:
        slot.keys[key] = decided.version + 1
    decided.commit()
    slot.aggregate = decided
    return Recorded(events, decided.version, already=False)


def _repeat(events: list[BaseModel], first: int) -> Recorded:
    return Recorded(tuple(events), first + len(events) - 1, already=True)


def _check_key(key: str) -> None:
    if not 0 < len(key) <= KEY_CHARS_MAX or not key.isprintable():
        raise UsageError(
            f"{key[:50]!r} cannot be an idempotency key: use 1 to {KEY_CHARS_MAX} printable "
            "characters"
        )


def _check_follows(record: RecordedEvent, wanted: int) -> None:
    if record.version != wanted:
        raise InvalidJournal(
            f"stream {record.stream!r} has version {record.version} where {wanted} should be: "
            "events are missing, so that no state can be trusted. Nothing was appended. Compare "
            "with a backup."
        )


def _check_size(stream: StreamName, events: list[NewEvent]) -> None:
    size = sum(len(event.data) + len(event.metadata) for event in events)
    if size > APPEND_BYTES_MAX:
        raise PayloadTooLarge(
            f"{len(events)} events for {stream!r} have {size} bytes, and one append holds "
            f"{APPEND_BYTES_MAX}; nothing was appended. Record less in one decision."
        )
