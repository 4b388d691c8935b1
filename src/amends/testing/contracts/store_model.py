"""The event store contract: whatever is done in whatever order, the store and a model agree."""

# ruff: noqa: D102 - the name of a test says what it shows

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amends.domain.envelope import NewEvent
from amends.domain.ids import ExpectedVersion, StreamName
from amends.errors import WrongExpectedVersion
from amends.stores.port import Append, EventFilter, EventStore, Removal
from amends.testing.contracts.data import as_new
from amends.testing.contracts.store_base import StoreContractBase


class Operation(NamedTuple):
    """One append: to which of three streams, with which of few ids, expecting which version.
    Without ids, the removal of the stream at that version.
    """

    stream: int
    ids: list[int]
    expected: int


operations = st.builds(
    Operation,
    stream=st.integers(0, 2),
    # Few ids, and in order, so that retries and partly known appends are common.
    ids=st.integers(0, 6).flatmap(
        lambda first: st.integers(0, 3).map(lambda count: list(range(first, first + count)))
    ),
    expected=st.integers(-1, 5),
)


class Model:
    """The port's words about exact versions, in the fewest lines: a list of ids per stream."""

    def __init__(self) -> None:
        self.streams: list[list[int]] = [[], [], []]
        #: The stream and the id of each event.
        self.log: list[tuple[int, int]] = []

    def append(self, operation: Operation) -> int | None:
        """The version it ended at, or None for a conflict."""
        stream = self.streams[operation.stream]
        first = operation.expected + 1
        if stream[first : first + len(operation.ids)] != operation.ids:
            if first != len(stream):
                return None
            stream += operation.ids
            self.log += [(operation.stream, id) for id in operation.ids]
        return operation.expected + len(operation.ids)

    def remove(self, operation: Operation) -> bool:
        """Whether the stream was removed."""
        if operation.expected != len(self.streams[operation.stream]) - 1:
            return False
        self.streams[operation.stream] = []
        self.log = [event for event in self.log if event[0] != operation.stream]
        return True


class ModelContract(StoreContractBase):
    """Needs the package `hypothesis`."""

    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[
            # The store is shared by the examples; each has streams of its own.
            HealthCheck.function_scoped_fixture,
            # Each backend's class runs the test that it inherits.
            HealthCheck.differing_executors,
        ],
    )
    @given(done=st.lists(operations, max_size=15))
    async def test_the_store_and_the_model_agree(
        self, store: EventStore, done: list[Operation]
    ) -> None:
        category, model = f"m{uuid4().hex}", Model()
        streams = [StreamName.of(category, str(n)) for n in range(3)]
        for operation in done:
            if not operation.ids:
                removal = Removal(streams[operation.stream], max(0, operation.expected))
                was_removed = model.remove(operation._replace(expected=removal.version))
                assert await store.remove([removal]) == [removal.stream] * was_removed
                continue
            events = [NewEvent(UUID(int=id), "E", b"{}", b"{}") for id in operation.ids]
            expected = ExpectedVersion(operation.expected)
            wanted = model.append(operation)
            append = Append(streams[operation.stream], events, expected)
            if wanted is not None:
                assert (await store.append(append)).version == wanted
                continue
            with pytest.raises(WrongExpectedVersion) as caught:
                await store.append(append)
            assert caught.value.actual == len(model.streams[operation.stream]) - 1
        for stream, ids in zip(streams, model.streams, strict=True):
            assert [event.id.int for event in as_new(await store.read(stream))] == ids
        if not self.features.forgets_at_once:
            return
        log = await store.read_all(filter=EventFilter((category,)))
        assert [(streams.index(event.stream), event.id.int) for event in log] == model.log
        assert sorted({event.position for event in log}) == [event.position for event in log]
