"""The protocol double as a process that is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.esdb import clients
from tests.esdb.clients import NewEvent, StreamState
from tests.esdb.double import ProtocolDouble
from tests.esdb.files import log_in
from tests.esdb.process import DoubleProcess


async def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    event = NewEvent(type="Paid", data=b"\x00\xff", metadata=b"m")
    async with DoubleProcess(tmp_path) as double:
        async with clients.connected(double.uri) as client:
            await client.append_to_stream("a-1", current_version=StreamState.ANY, events=[event])
            [before] = await client.get_stream("a-1")
        double.kill()
        await double.start()
        async with clients.connected(double.uri) as client:
            [after] = await client.get_stream("a-1")
            with pytest.raises(clients.WrongCurrentVersion):
                await client.append_to_stream("a-1", current_version=5, events=[event])
    assert after == before
    assert (after.data, after.metadata, after.commit_position) == (
        *(before.data, before.metadata, before.commit_position),
    )


async def test_an_append_that_was_not_written_whole_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with log_in(path) as log:
        async with (
            ProtocolDouble.running(log=log) as double,
            clients.connected(double.uri) as client,
        ):
            for stream in ("a-1", "a-2"):
                events = [NewEvent(type="Paid", data=b"{}") for _ in range(2)]
                await client.append_to_stream(
                    stream, current_version=StreamState.NO_STREAM, events=events
                )
    path.write_text(path.read_text()[:-20])
    for _ in range(2):
        with log_in(path) as log:
            assert (log.last_number("a-1"), log.last_number("a-2")) == (1, -1)
