"""Every workload, as small as it gets: it runs, its checks hold, and its rows say what they must.

On RabbitMQ two stand for all, because they have the same sagas, and each starts a server.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from amends.testing.rabbitmq import RabbitMQMissing, find_server
from benchmarks import rabbitmq_timers, run, search

SPEED: Final = {"n", "inflight", "per_s", "p50_ms", "p99_ms", "cpu_s_per_1000", "others_cpus"}
RECOVERY: Final = {"n", "inflight", "recovered_s", "steps_twice", "steps_running", "killed_after_s"}
HOLD: Final = {"n", "rate_per_s", "per_s", "steps_per_s", "p50_ms", "p99_ms", "histogram"}
TURNS: Final = {"n", "journal_events", "cpu_ms_per_turn"}

COSTS: Final = {f"{part}_cpu_s_per_1000" for part in ("orchestrator", "workers", "broker")}
AMQP: Final = {"messages_per_saga", "amqp_per_saga"} | {
    f"{part}_amqp_per_saga" for part in ("orchestrator", "workers")
}

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

SPREAD: Final[dict[str, set[str]]] = {
    "W1/64/rabbitmq/3": SPEED | {"steps_per_s"} | COSTS | AMQP,
    "W6/0/rabbitmq": RECOVERY | COSTS,
}
SPREAD_TOO: Final = {
    *("W1/64/rabbitmq", "W1/256/rabbitmq", "W1/1/rabbitmq"),
    *("W2/rabbitmq", "W3/rabbitmq", "W4/rabbitmq", "W6/1/rabbitmq"),
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
    assert {*FIELDS, "W7/search", *SPREAD, *SPREAD_TOO} == run.runs().keys()


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


@pytest.fixture
def rabbitmq_program() -> Path:
    """The server that can be started here."""
    try:
        return find_server()
    except RabbitMQMissing as missing:
        pytest.skip(str(missing))


@pytest.mark.usefixtures("rabbitmq_program")
def test_what_timers_cost_rabbitmq(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rabbitmq_timers, "SETTLING_S", 0)
    rabbitmq_timers.main(["500"])
    row = json.loads(capsys.readouterr().out)
    assert row["n"] == 500
    assert row["disk_bytes_per_timer"] > 100


@pytest.mark.usefixtures("rabbitmq_program")
@pytest.mark.parametrize("key", SPREAD)
def test_a_workload_on_rabbitmq_gives_its_figures(bench: Bench, key: str) -> None:
    (row,) = bench(key)
    assert row.keys() >= SPREAD[key] | {"workers"}
    assert row["cpu_s_per_1000"] == pytest.approx(sum(row[part] for part in COSTS), rel=0.01)
    if key == "W1/64/rabbitmq/3":
        assert (row["workers"], row["messages_per_saga"]) == (3, 5)
        assert row["orchestrator_amqp_per_saga"] > 1
        assert row["workers_amqp_per_saga"] > 0


def test_names_choose_workloads() -> None:
    assert [*run.chosen("w1")] == ["W1/64", "W1/256", "W1/1"]
    assert [*run.chosen("W6/0 w2")] == ["W2", "W6/0"]
    assert [*run.chosen("W2/rabbitmq W1/64/rabbitmq/3")] == ["W1/64/rabbitmq/3", "W2/rabbitmq"]
    assert [*run.chosen("W6/rabbitmq")] == ["W6/0/rabbitmq", "W6/1/rabbitmq"]
    assert run.chosen("rabbitmq").keys() == {*SPREAD, *SPREAD_TOO}
    assert run.chosen("").keys() == {*FIELDS, "W7/search"}
    with pytest.raises(SystemExit, match="'rabbitmq/w1'"):
        run.chosen("W1 rabbitmq/W1")


def test_a_search_that_finds_nothing_says_no_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "P99_MAX_MS", 0.0)
    monkeypatch.setattr(search, "FIRST_RATE", 200.0)
    monkeypatch.setattr(search, "LOWEST_RATE", 200.0)
    (figures,) = search.search(tmp_path, 0.01)
    assert (figures.rate_per_s, figures.highest_rate_per_s) == (200, None)
