"""A small soak: a day of virtual time on a real file, after which nothing has grown.

The whole one is `make soak`. Here everything is told by counts, and nothing by how long it took.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from amends.broker.commit import TurnCommit
from amends.broker.embedded import EmbeddedBroker
from amends.testing.clock import run_virtual
from benchmarks.measure import CheckFailed
from benchmarks.soak import DAY_S, Reading, soak, trends
from benchmarks.soak_bank import Bank

#: The tests that ran before it leave holes in the memory of the process.
NOT_HERE = {"rss MB"}


def run(path: Path, n: int, **more: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The verdict, and the readings."""
    readings: list[dict[str, Any]] = []
    verdict = run_virtual(soak(n, path / "soak.db", readings.append, **more))
    return verdict, readings


def test_a_day_leaves_nothing_behind(tmp_path: Path) -> None:
    verdict, readings = run(tmp_path, 3000)
    assert set(verdict["grows"]) <= NOT_HERE
    assert verdict["outcomes"] == {"completed": 2250, "compensated": 600, "cancelled": 150}
    assert not any(verdict["left"].values())
    for name in ("open files", "threads"):
        assert len({reading[name] for reading in readings}) == 1
    for reading in readings:
        assert reading["rows messages"] == reading["rows dead_letters"] == 0
        # An hour of transfers, and those that wait.
        assert reading["rows streams"] < 400
        assert reading["tasks"] < 100
        assert reading["items held"] < 1500


def test_without_a_retention_the_file_grows(tmp_path: Path) -> None:
    verdict, _ = run(tmp_path, 1500, retention_days=None)
    assert {"rows streams", "rows events"} <= set(verdict["grows"])
    assert verdict["left"]["rows streams"] == 1500


def test_a_leak_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = EmbeddedBroker.commit

    async def remembers(
        self: EmbeddedBroker, turns: Sequence[TurnCommit]
    ) -> list[Exception | None]:
        self._prepared.update(str(turn.append.events[0].id) for turn in turns if turn.append)
        return await commit(self, turns)

    monkeypatch.setattr(EmbeddedBroker, "commit", remembers)
    verdict, _ = run(tmp_path, 1500)
    assert verdict["grows"] == ["in engine._backend.broker._prepared"]


def test_a_cent_that_is_lost_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = Bank.book

    def wrongly(self: Bank, order: Any, account: int, cents: int) -> int:
        return book(self, order, account, cents - (order.number == 99))

    monkeypatch.setattr(Bank, "book", wrongly)
    with pytest.raises(ExceptionGroup) as caught:
        run(tmp_path, 200)
    assert caught.group_contains(CheckFailed, match="wrongly booked")


@pytest.mark.parametrize(
    ("amount", "grows"),
    [
        (lambda hours: 1000.0, False),
        # Up and down, but not on and on.
        (lambda hours: 1000.0 + 900 * (hours % 2), False),
        (lambda hours: 1e6 * hours if hours < 2 else 2e6, False),
        (lambda hours: 1000.0 + 50 * hours, True),
        (lambda hours: 0.0 if hours < 12 else 1000.0, True),
    ],
)
def test_what_grows(amount: Callable[[float], float], grows: bool) -> None:
    hours = [DAY_S / 3600 * n / 50 for n in range(1, 51)]
    found = trends([Reading(at * 3600, {"things": amount(at)}) for at in hours])
    assert found["things"].grows("things") == grows


def test_one_open_file_more_is_one_too_many() -> None:
    found = trends([Reading(DAY_S * n / 50, {"open files": 15 + n // 25}) for n in range(1, 51)])
    assert found["open files"].grows("open files")
