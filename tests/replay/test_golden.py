"""Today's code replays what earlier releases wrote. A file in this folder is never edited."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from amends import Status
from amends.domain import messages as m
from amends.domain.envelope import CAUSATION_ID, NewEvent, RecordedEvent, decode_metadata
from amends.domain.ids import NO_STREAM
from amends.sagas.replay import fold, replay
from amends.stores.port import Append
from amends.testing.harness import Harness, run_app
from tests.replay import golden, record
from tests.replay.sagas_v1 import APP
from tests.replay.stories import STORIES

KEPT = sorted(path.stem for path in golden.FOLDER.glob("*.json"))

#: Stories in which nobody from outside has a part: cut off anywhere, they come to the same end.
ALONE = (
    *("transfer_completed", "transfer_compensated", "transfer_failed"),
    *("probe_says_it_happened", "probe_says_it_did_not", "timers", "signals_that_never_came"),
    *("fan_out", "fan_out_with_a_failure", "deadline", "given_up_and_made_good"),
)


def test_every_story_is_kept_and_every_kept_journal_has_its_story() -> None:
    assert sorted(STORIES) == KEPT


@pytest.mark.parametrize("story", KEPT)
def test_todays_code_takes_the_decisions_on_record(story: str) -> None:
    kept = golden.read(story)
    execution = replay(APP.sagas[kept.instance.saga], kept.instance, kept.records, APP.activities)
    assert list(execution.decisions) == []
    for state in (execution.state, fold(kept.instance, kept.records)):
        assert state.status == kept.status
        assert state.result == kept.result
        assert state.open_steps() == []
    execution.discard()


@pytest.mark.parametrize("story", KEPT)
def test_and_so_it_does_from_any_moment_of_the_journal(story: str) -> None:
    kept = golden.read(story)
    for count in moments(kept.records):
        execution = replay(
            APP.sagas[kept.instance.saga], kept.instance, kept.records[:count], APP.activities
        )
        assert list(execution.decisions) == []
        execution.discard()


def moments(records: list[RecordedEvent]) -> list[int]:
    """How many events stood there before each turn, and at the end. A turn is never half there."""
    causes = [decode_metadata(record)[CAUSATION_ID] for record in records]
    begins = [n for n in range(1, len(records)) if causes[n] != causes[n - 1]]
    return [*begins[:: max(1, len(begins) // 30)], len(records)]


@pytest.mark.parametrize("story", ALONE)
def test_an_instance_of_an_earlier_release_comes_to_its_end_under_todays(story: str) -> None:
    kept = golden.read(story)
    for count in moments(kept.records):

        async def scenario(harness: Harness, count: int = count) -> None:
            events = [NewEvent(r.id, r.type, r.data, r.metadata) for r in kept.records[:count]]
            store = harness.client.backend.store
            await store.append(Append(kept.instance.stream, events, NO_STREAM))
            await harness.client.send(m.WakeSaga(saga=kept.instance.saga, id=kept.instance.id))
            ending = await harness.client.wait_for_end(kept.instance, None)
            assert ending.status == kept.status
            if kept.status == Status.COMPLETED:
                assert ending.result == kept.result

        run_app(APP, scenario)


def test_a_kept_journal_is_never_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = golden.path_of("timers").read_bytes()
    assert record.main(["timers"]) == 1
    assert "is kept as it is" in capsys.readouterr().err
    with pytest.raises(FileExistsError):
        golden.write("timers", golden.read("timers"))
    assert golden.path_of("timers").read_bytes() == before
    assert record.main([f"no_story_{uuid4().hex}"]) == 2
