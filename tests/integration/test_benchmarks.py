"""Every workload, as small as it gets: it runs, its checks hold, and its rows say what they must."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks import run, search

SPEED: Final = {"n", "inflight", "per_s", "p50_ms", "p99_ms", "cpu_s_per_1000", "others_cpus"}
RECOVERY: Final = {"n", "inflight", "recovered_s", "steps_twice", "steps_running", "killed_after_s"}
HOLD: Final = {"n", "rate_per_s", "per_s", "steps_per_s", "p50_ms", "p99_ms", "histogram"}
TURNS: Final = {"n", "journal_events", "cpu_ms_per_turn"}

FIELDS: Final[dict[str, set[str]]] = {
    "W1/64": SPEED | {"steps_per_s"},
    "W1/256": SPEED | {"steps_per_s"},
    "W1/1": SPEED | {"steps_per_s"},
    "W2": SPEED | {"steps_per_s"},
    "W3": SPEED | {"steps_per_s"},
    "W4": SPEED | {"steps_per_s"},
    "W5/starts": SPEED | {"rss_per_sleeper_bytes"},
    "W5/restart": {"n", "restarted_s", "answered_s", "woken_s", "rss_per_sleeper_bytes"},
    "W6/0": RECOVERY,
    "W6/1": RECOVERY,
    "W7/hold": HOLD | {"cpu_s_per_1000", "others_cpus"},
    "W8/100": TURNS,
    "W8/1000": TURNS,
    "W8/10000": TURNS,
    "W8/replay": {"n", "journal_events", "read_s", "replay_s", "p50_ms", "p99_ms"},
}


Bench = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Bench:
    """Gives what `make bench` prints for a workload at a small scale."""

    def rows(key: str) -> list[dict[str, Any]]:
        settings = {"WORKLOADS": key, "REPEATS": "1", "SCALE": "0.002", "BENCH_DIR": str(tmp_path)}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        run.main()
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return rows


def test_every_workload_is_here() -> None:
    assert {*FIELDS, "W7/search"} == run.runs().keys()


@pytest.mark.parametrize("key", FIELDS)
def test_a_workload_gives_its_figures(bench: Bench, key: str) -> None:
    first, *more = bench(key)
    assert first["workload"] == key.partition("/")[0]
    assert FIELDS[key] <= first.keys()
    assert first["n"] >= 1
    if key == "W7/hold":
        assert first["n"] == sum(row["n"] for row in more)
    for row in (first, *more):
        assert sum(count for _, count in row.get("histogram", [])) in (0, row["n"])


def test_a_search_that_finds_nothing_says_no_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "P99_MAX_MS", 0.0)
    monkeypatch.setattr(search, "FIRST_RATE", 200.0)
    monkeypatch.setattr(search, "LOWEST_RATE", 200.0)
    (figures,) = search.search(tmp_path, 0.01)
    assert (figures.rate_per_s, figures.highest_rate_per_s) == (200, None)
