"""What the official client sees of the protocol double: encodings, numbers, positions, messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from tests.esdb import clients, protos, replies
from tests.esdb.clients import NewEvent, StreamState
from tests.esdb.double import ProtocolDouble
from tests.esdb.faults import Call, Fault


@pytest.fixture
async def client(esdb_double: ProtocolDouble) -> AsyncIterator[Any]:
    async with clients.connected(esdb_double.uri) as client:
        yield client


def some(count: int = 1, type: str = "Happened") -> list[Any]:
    return [NewEvent(type=type, data=b'{"n":1}', metadata=b'{"m":2}') for _ in range(count)]


async def fill(client: Any, stream: str, count: int, type: str = "Happened") -> int:
    position = await client.append_to_stream(
        stream, current_version=StreamState.NO_STREAM, events=some(count, type)
    )
    assert isinstance(position, int)
    return position


async def all_of(client: Any, **options: Any) -> list[Any]:
    return [event async for event in await client.read_all(**options)]


async def test_an_event_comes_back_as_it_was_written(client: Any) -> None:
    binary = NewEvent(
        type="Raw", data=b"\x00\xff", metadata=b"", content_type="application/octet-stream"
    )
    position = await client.append_to_stream(
        "a-1", current_version=StreamState.NO_STREAM, events=[*some(), binary]
    )
    first, second = await client.get_stream("a-1")
    assert (first.type, first.data, first.metadata) == ("Happened", b'{"n":1}', b'{"m":2}')
    assert (second.id, second.data, second.content_type) == (
        binary.id,
        b"\x00\xff",
        "application/octet-stream",
    )
    assert [first.stream_position, second.stream_position] == [0, 1]
    assert second.commit_position == second.prepare_position == position
    assert first.recorded_at is not None


async def test_a_retry_is_a_success_and_another_writer_is_told(client: Any) -> None:
    events = some(3)
    retried = [
        await client.append_to_stream("a-1", current_version=StreamState.NO_STREAM, events=events)
        for _ in range(2)
    ]
    assert retried[0] == retried[1]
    with pytest.raises(clients.WrongCurrentVersion, match="2"):
        await client.append_to_stream("a-1", current_version=7, events=some())
    with pytest.raises(clients.WrongCurrentVersion, match="does not exist"):
        await client.append_to_stream("a-2", current_version=7, events=some())
    assert len(await client.get_stream("a-1")) == 3


async def test_streams_that_are_not_there_or_no_more(client: Any) -> None:
    with pytest.raises(clients.NotFound):
        await client.get_stream("a-1")
    await fill(client, "a-1", 3)
    await client.delete_stream("a-1", current_version=2)
    with pytest.raises(clients.NotFound):
        await client.get_stream("a-1", backwards=True)
    await fill(client, "a-1", 2)
    assert [event.stream_position for event in await client.get_stream("a-1")] == [3, 4]
    assert await client.get_stream_metadata("a-1") == ({"$tb": 3}, 1)
    with pytest.raises(clients.WrongCurrentVersion):
        await client.delete_stream("a-1", current_version=3)
    with pytest.raises(clients.NotFound):
        await client.delete_stream("a-2", current_version=StreamState.ANY)
    await client.tombstone_stream("a-1", current_version=4)
    for call in (
        client.get_stream("a-1"),
        client.append_to_stream("a-1", current_version=StreamState.ANY, events=some()),
        client.delete_stream("a-1", current_version=StreamState.ANY),
    ):
        with pytest.raises(clients.StreamIsDeleted):
            await call


async def test_metadata_hides_events_from_reads_of_the_stream_alone(client: Any) -> None:
    await fill(client, "a-1", 5)
    for metadata, numbers in (
        ({"$maxCount": 2}, [3, 4]),
        ({"$tb": 4}, [4]),
        ({"$tb": 5}, []),
        ({"$maxAge": 0}, []),
        ({"$maxAge": 3600}, [0, 1, 2, 3, 4]),
    ):
        await client.set_stream_metadata("a-1", metadata=metadata)
        for backwards in (False, True):
            read = await client.get_stream("a-1", backwards=backwards)
            assert sorted(event.stream_position for event in read) == numbers
    found = await all_of(client, filter_include=["Happened"])
    assert len(found) == 5


async def test_the_log_is_read_on_from_a_position_and_back_from_before_it(client: Any) -> None:
    for number in range(4):
        await fill(client, f"a-{number}", 1)
    everything = await all_of(client, filter_exclude=())
    assert any(event.type.startswith("$") for event in everything)
    written = await all_of(client)
    third = written[2].commit_position
    assert [e.stream_name for e in await all_of(client, commit_position=third)] == ["a-2", "a-3"]
    back = await all_of(client, commit_position=third, backwards=True)
    assert [e.stream_name for e in back] == ["a-1", "a-0"]
    found = await all_of(client, filter_include=["a-1", "a-3"], filter_by_stream_name=True, limit=1)
    assert [e.stream_name for e in found] == ["a-1"]
    assert await client.get_commit_position() == written[-1].commit_position
    with pytest.raises(clients.ClientError, match=r"(?i)position"):
        await all_of(client, commit_position=third + 1)


async def test_an_append_above_the_limit_is_refused_whole(
    client: Any, esdb_double: ProtocolDouble
) -> None:
    esdb_double.node.max_append_bytes = 1000
    fitting = NewEvent(type="t" * 10, data=b"d" * 970, metadata=b"m" * 10)
    await client.append_to_stream("a-1", current_version=StreamState.NO_STREAM, events=[fitting])
    with pytest.raises(clients.MaximumAppendSizeExceeded):
        await client.append_to_stream(
            "a-2",
            current_version=StreamState.NO_STREAM,
            events=[NewEvent(type="t", data=b"d" * 500) for _ in range(2)],
        )
    with pytest.raises(clients.NotFound):
        await client.get_stream("a-2")


async def test_a_subscription_goes_on_from_its_position(client: Any) -> None:
    await fill(client, "a-1", 3)
    second = (await client.get_stream("a-1"))[1]
    subscription = await client.subscribe_to_all(
        commit_position=second.commit_position, include_checkpoints=True, include_caught_up=True
    )
    seen = [await anext(subscription) for _ in range(3)]
    assert [clients.kind(message) for message in seen] == ["event", "checkpoint", "caught up"]
    assert seen[0].stream_position == 2
    assert seen[1].commit_position == seen[0].commit_position
    await fill(client, "b-1", 1)
    assert (await anext(subscription)).stream_name == "b-1"
    await subscription.stop()


async def test_a_subscription_from_the_end_is_live_at_once(client: Any) -> None:
    await fill(client, "a-1", 3)
    subscription = await client.subscribe_to_all(from_end=True, include_caught_up=True)
    assert clients.kind(await anext(subscription)) == "caught up"
    await fill(client, "b-1", 1)
    assert (await anext(subscription)).stream_name == "b-1"
    await subscription.stop()


async def test_checkpoints_come_after_so_many_events_that_do_not_match(client: Any) -> None:
    await fill(client, "a-1", 25)
    subscription = await client.subscribe_to_all(
        filter_include=["Never"],
        include_checkpoints=True,
        include_caught_up=True,
        window_size=5,
        checkpoint_interval_multiplier=2,
    )
    kinds = [clients.kind(await anext(subscription)) for _ in range(5)]
    assert kinds == ["checkpoint"] * 4 + ["caught up"]  # 30 events, of which 5 are the server's
    for number in range(10):
        await fill(client, f"b-{number}", 1)
    checkpoint = await anext(subscription)
    assert clients.kind(checkpoint) == "checkpoint"
    assert checkpoint.commit_position == await client.get_commit_position()
    await subscription.stop()


async def test_a_live_reader_that_falls_behind_catches_up(
    client: Any, esdb_double: ProtocolDouble
) -> None:
    raw = clients.raw_subscription(esdb_double.uri)
    async with raw as messages:
        assert [await anext(messages) for _ in range(2)] == ["confirmation", "caught_up"]
        await fill(client, "a-1", 40)
        seen = [await anext(messages) for _ in range(42)]
    assert seen == ["fell_behind", *["event"] * 40, "caught_up"]


async def test_a_subscription_to_a_stream(client: Any) -> None:
    subscription = await client.subscribe_to_stream("a-1")
    await fill(client, "a-1", 2)
    assert [(await anext(subscription)).stream_position for _ in range(2)] == [0, 1]
    await client.tombstone_stream("a-1", current_version=1)
    with pytest.raises(clients.StreamIsDeleted):
        await anext(subscription)


async def test_a_link_is_resolved(client: Any) -> None:
    await fill(client, "a-1", 2)
    link = NewEvent(type="$>", data=b"1@a-1", content_type="application/octet-stream")
    await client.append_to_stream("l-1", current_version=StreamState.ANY, events=[link])
    [found] = await client.get_stream("l-1", resolve_links=True)
    assert (found.stream_name, found.stream_position, found.link.id) == ("a-1", 1, link.id)


async def test_a_plain_append_says_wrong_version_as_a_result(esdb_double: ProtocolDouble) -> None:
    target = esdb_double.uri.removeprefix("esdb://").partition("?")[0]
    async with grpc.aio.insecure_channel(target) as channel:
        stub = protos.streams_grpc.StreamsStub(channel)
        replies = [await stub.Append(append_requests(expected)) for expected in (None, None, 4)]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Append(append_requests(None, data=b"d" * 1024 * 1024))
    assert replies[0].success.current_revision == 0
    assert replies[0].success.position.commit_position > 0
    assert replies[1].wrong_expected_version.current_revision == 0
    assert replies[1].wrong_expected_version.WhichOneof("expected_revision_option") == (
        "expected_no_stream"
    )
    assert replies[2].wrong_expected_version.expected_revision == 4
    trailers = caught.value.trailing_metadata()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert trailers["exception"] == "maximum-append-size-exceeded"


def append_requests(expected: int | None, data: bytes = b"{}") -> list[Any]:
    request = protos.streams.AppendReq
    options = request.Options(
        stream_identifier=protos.shared.StreamIdentifier(stream_name=b"plain-1")
    )
    if expected is None:
        options.no_stream.SetInParent()
    else:
        options.revision = expected
    id = uuid4()
    message = request.ProposedMessage(
        id=protos.shared.UUID(
            structured=protos.shared.UUID.Structured(
                most_significant_bits=as_signed(id.int >> 64),
                least_significant_bits=as_signed(id.int % 2**64),
            )
        ),
        metadata={"type": "Plain", "content-type": "application/json"},
        data=data,
    )
    return [request(options=options), request(proposed_message=message)]


def as_signed(half: int) -> int:
    return half - 2**64 if half >= 2**63 else half


async def test_there_are_no_persistent_subscriptions(client: Any) -> None:
    assert list(await client.list_subscriptions()) == []
    assert list(await client.list_subscriptions_to_stream("a-1")) == []


# What goes wrong


async def append_once(client: Any, stream: str, timeout: float = 5) -> None:
    """One append without the client's own retries."""
    await clients.streams(client).batch_append(
        stream, StreamState.NO_STREAM, some(), timeout=timeout
    )


@pytest.mark.parametrize(
    ("fault", "error", "written"),
    [
        (Fault.DROP_BEFORE, clients.ServiceUnavailable, False),
        (Fault.DROP_AFTER, clients.ServiceUnavailable, True),
        (Fault.CUT, clients.ServiceUnavailable, False),
        (Fault.STALL_BEFORE, clients.DeadlineExceeded, False),
        (Fault.STALL_AFTER, clients.DeadlineExceeded, True),
        (Fault.LATE, clients.DeadlineExceeded, True),
        (Fault.TIMEOUT_AFTER, clients.DeadlineExceeded, True),
        (Fault.NOT_READY, clients.ClientError, False),
    ],
)
async def test_an_append_goes_wrong(
    client: Any,
    esdb_double: ProtocolDouble,
    fault: Fault,
    error: type[Exception],
    written: bool,
) -> None:
    esdb_double.faults.next(Call.APPEND, fault)
    with pytest.raises(error):
        await append_once(client, "a-1", timeout=0.2)
    if fault is Fault.LATE:
        assert esdb_double.log.last_number("a-1") == -1
        await asyncio.sleep(esdb_double.faults.late_after_s)
    assert (esdb_double.log.last_number("a-1") == 0) is written
    await append_once(client, "a-2")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.END, StopAsyncIteration),
        (Fault.ABORT, clients.AbortedByServer),
        (Fault.TOO_SLOW, clients.ConsumerTooSlow),
        (Fault.DROP_BEFORE, clients.ServiceUnavailable),
        (Fault.CUT, clients.ServiceUnavailable),
    ],
)
async def test_a_subscription_goes_wrong(
    client: Any, esdb_double: ProtocolDouble, fault: Fault, error: type[Exception]
) -> None:
    esdb_double.faults.next(Call.EVENT, fault, skip=2)
    subscription = await client.subscribe_to_all()
    await fill(client, "a-1", 5)
    assert [(await anext(subscription)).stream_position for _ in range(2)] == [0, 1]
    with pytest.raises(error):
        await anext(subscription)


async def test_a_follower_names_the_leader_and_the_client_goes_there() -> None:
    async with (
        ProtocolDouble.running() as first,
        ProtocolDouble.running(beside=first) as second,
        clients.connected(first.uri) as alone,
        clients.connected(first.cluster_uri) as client,
    ):
        await fill(client, "a-1", 1)
        first.faults.next(Call.APPEND, Fault.NEW_LEADER)
        with pytest.raises(clients.NodeIsNotLeader) as caught:
            await append_once(alone, "a-2")
        assert clients.leader_of(caught.value) == f"127.0.0.1:{second.node.port}"
        await fill(client, "a-3", 1)
        assert second.faults.calls[Call.APPEND] == 1
        assert second.log.last_number("a-2") == -1
        assert len(await client.get_stream("a-1")) == 1


async def test_what_the_cluster_has_not_committed_is_not_read_and_not_acknowledged(
    client: Any, esdb_double: ProtocolDouble
) -> None:
    events = some()
    esdb_double.log.hold()
    for _ in range(2):
        with pytest.raises(clients.DeadlineExceeded):
            await clients.streams(client).batch_append(
                "a-1", StreamState.NO_STREAM, events, timeout=0.1
            )
        assert esdb_double.log.last_number("a-1") == 0
    assert await client.get_stream("a-1") == ()
    esdb_double.log.release()
    await clients.streams(client).batch_append("a-1", StreamState.NO_STREAM, events)
    assert len(await client.get_stream("a-1")) == 1


async def test_faults_by_chance_are_the_same_for_a_seed(esdb_double: ProtocolDouble) -> None:
    def drawn(seed: int) -> list[Fault | None]:
        esdb_double.faults.by_chance(seed, {Call.READ: {Fault.DROP_BEFORE: 0.2, Fault.CUT: 0.1}})
        return [esdb_double.faults.draw(Call.READ) for _ in range(100)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert {Fault.DROP_BEFORE, Fault.CUT, None} == set(drawn(1))


def test_ids_survive_both_encodings() -> None:
    for id in (uuid4(), UUID(int=0), UUID(int=2**128 - 1), UUID(int=2**63)):
        for string in (True, False):
            assert replies.decode_uuid(replies.encode_uuid(id, string=string)) == id
