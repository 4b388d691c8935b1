"""The comparison: what a peer's rows mean, who takes turns with whom, and the table."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare
from benchmarks.compare import OURS, Row, Taken, kept, main, ours_of, tables, take


def test_a_peers_row_in_our_words_and_units() -> None:
    peers: Row = {
        "workload": "W1seq",
        "inflight": 1,
        "wf_per_s": 100,
        "p50_ms": 5,
        "cpu_s_per_1000_wf": 3.0,
        "client_cpu_s_per_1000_wf": 0.5,
    }
    row = ours_of(peers)
    assert (row["workload"], row["per_s"], row["p50_ms"]) == ("W1", 100, 5)
    assert row["cpu_s_per_1000"] == 3.5
    assert ours_of({"workload": "W5", "starts_per_s": 7, "rss_kb_per_sleeper": 2.5}) == {
        "workload": "W5",
        "per_s": 7,
        "rss_kb_per_sleeper": 2.5,
        "rss_per_sleeper_bytes": 2500,
    }
    recovered = ours_of(
        {"workload": "W6", "kill_after_ack_s": 0, "recover_s": 3.0, "steps_more_than_once": 9}
    )
    assert (recovered["killed_after_s"], recovered["recovered_s"]) == (0, 3.0)
    assert recovered["steps_twice"] == 9


def taken(who: str, round: int, word: str = "W2", others: float = 0.0, **row: Any) -> Taken:
    return Taken(who, round, word, others, {"workload": word[:2], **row})


def line(table: str, name: str) -> list[str]:
    (found,) = [each for each in table.splitlines() if each.startswith(f"| {name} |")]
    return [cell.strip() for cell in found.strip("|").split("|")][1:]


def test_ratios_are_of_the_same_round_and_say_who_is_ahead() -> None:
    rows = [
        taken(who, round, inflight=64, others=others, steps_per_s=per_s, cpu_s_per_1000=cpu_s)
        for who, round, others, per_s, cpu_s in [
            (OURS, 0, 0.1, 2000, 2.0),
            ("peer", 0, 0.2, 1000, 8.0),
            ("peer", 1, 0.2, 200, 4.0),
            (OURS, 1, 0.3, 100, 2.0),
            (OURS, 2, 0.5, 900, 3.0),
            ("peer", 2, 0.9, 300, 6.0),
        ]
    ]
    table = tables(rows)
    assert line(table, "W2, 64 in flight, steps/s") == [
        "900 (100 – 2,000)",
        "300 (200 – 1,000)",
        "2 (0.5 – 3)",
        "0.3 – 0.2",
    ]
    assert line(table, "W2, 64 in flight, CPU s per 1,000")[2] == "2 (2 – 4)"
    assert "rounds: 3" in table


def test_what_only_one_side_has_is_left_out() -> None:
    rows = [
        taken(OURS, 0, inflight=64, steps_per_s=20, cpu_s_per_1000=2.0),
        taken("peer", 0, inflight=64, steps_per_s=10, cpu_s_per_1000=None),
        taken(OURS, 1, inflight=64, steps_per_s=999),
        taken("peer", 2, inflight=64, steps_per_s=999),
    ]
    table = tables(rows)
    assert line(table, "W2, 64 in flight, steps/s") == ["20", "10", "2", "0.0 – 0.0"]
    assert "CPU s" not in table


def test_steps_that_were_run_twice_have_no_ratio() -> None:
    rows = [
        taken(OURS, 0, "W6", inflight=64, killed_after_s=0.0, recovered_s=2.0, steps_twice=5),
        taken("peer", 0, "W6", killed_after_s=0, recovered_s=3.0, steps_twice=0),
    ]
    table = tables(rows)
    assert line(table, "W6, killed at once, recovered in s")[:3] == ["2", "3", "1.5"]
    assert line(table, "W6, killed at once, steps run twice")[:3] == ["5", "0", "–"]


def test_each_peer_has_a_table_of_its_own() -> None:
    rows = [
        taken(OURS, 0, inflight=64, steps_per_s=20),
        taken("one", 0, inflight=64, steps_per_s=10, versions="one 1.0"),
        taken(OURS, 1, inflight=64, steps_per_s=30),
        taken("two", 1, inflight=64, steps_per_s=10, versions="two 2.0"),
    ]
    first, second = tables(rows).split("Beside ")[1:]
    assert first.startswith("one 1.0")
    assert line(first, "W2, 64 in flight, steps/s")[0] == "20"
    assert second.startswith("two 2.0")
    assert line(second, "W2, 64 in flight, steps/s")[0] == "30"


PEER = """\
#!{python}
import json, os, sys
assert os.environ["BENCH_REPEATS"] == "1"
kind, word = sys.argv[1:]
if word == "w3":
    sys.exit("no idea")
print("chatter")
print(json.dumps({{"peer": kind, "workload": word.upper(), "inflight": 64, "wf_per_s": 50,
                  "steps_per_s": 500, "cpu_s_per_1000_wf": 9, "client_cpu_s_per_1000_wf": 1}}))
"""


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A peer's script, in the environment; and ours in an interpreter that only pretends."""
    script = tmp_path / "peer_bench.py"
    script.write_text(PEER.format(python=sys.executable))
    ours = tmp_path / "python"
    ours.write_text(
        f"#!{sys.executable}\n"
        "import json, os\n"
        "assert (os.environ['REPEATS'], os.environ['SCALE']) == ('1', '1')\n"
        "print(json.dumps({'workload': os.environ['WORKLOADS'], 'inflight': 64, 'per_s': 100,"
        " 'steps_per_s': 1000, 'cpu_s_per_1000': 2}))\n"
    )
    ours.chmod(ours.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PEER_PYTHON", sys.executable)
    monkeypatch.setenv("PEER_SCRIPT", str(script))
    monkeypatch.setenv("PEER_ARGS", "kind")
    monkeypatch.setattr(sys, "executable", str(ours))
    return script


def test_they_take_turns_and_who_begins_changes(peer: Path) -> None:
    rows = list(take(["W2"], range(3), dict(os.environ)))
    assert [(each.who, each.round) for each in rows] == [
        *((OURS, 0), ("kind", 0)),
        *(("kind", 1), (OURS, 1)),
        *((OURS, 2), ("kind", 2)),
    ]


def test_only_we_know_of_what_stands_behind_a_slash(peer: Path) -> None:
    ours, theirs = take(["W2/64/rabbitmq"], range(1), dict(os.environ))
    assert (ours.word, ours.row["workload"]) == ("W2/64/rabbitmq", "W2/64/rabbitmq")
    assert (theirs.word, theirs.row["workload"]) == ("W2/64/rabbitmq", "W2")
    table = tables([ours, theirs])
    assert line(table, "W2/64/rabbitmq, 64 in flight, CPU s per 1,000")[:3] == ["2", "10", "5"]


def test_a_program_that_fails_counts_for_nothing(
    peer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(take(["W3", "W2"], range(1), dict(os.environ)))
    assert [(each.who, each.word) for each in rows] == [(OURS, "W3"), (OURS, "W2"), ("kind", "W2")]
    said = capsys.readouterr().err
    assert "ended with 1, and counts for nothing:\nno idea" in said
    assert "| W3" not in tables(rows)


def test_one_command_makes_the_table_and_rounds_add_up(
    peer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = peer.parent / "rows.jsonl"
    monkeypatch.setenv("KEEP", str(keep))
    monkeypatch.setenv("WORKLOADS", "W2")
    monkeypatch.setenv("ROUNDS", "2")
    main()
    main()
    assert [each.round for each in kept(keep)] == [0, 0, 1, 1, 2, 2, 3, 3]
    shown = capsys.readouterr().out
    assert line(shown.split("Beside ")[2], "W2, 64 in flight, CPU s per 1,000")[:3] == [
        *("2", "10.0", "5"),
    ]
    monkeypatch.delenv("PEER_SCRIPT")
    main()
    assert "rounds: 4" in capsys.readouterr().out
    assert len(keep.read_text().splitlines()) == 8
    assert json.loads(keep.read_text().splitlines()[0])["who"] == OURS


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"WORKLOADS": "W2 W7"}, "'W7' is no workload to compare; there are: W1 W2"),
        ({"WORKLOADS": "nonsense"}, "'nonsense' is no workload"),
        ({"PEER_SCRIPT": ""}, "set PEER_SCRIPT, or KEEP"),
    ],
)
def test_what_makes_no_comparison_is_refused(
    peer: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], said: str
) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=said):
        main()


def test_each_side_is_asked_in_its_own_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def run(command: Any, environment: Any) -> tuple[list[Row], float]:
        asked.append((command[-1], environment.get("WORKLOADS")))
        return [], 0.0

    monkeypatch.setattr(compare, "_run", run)
    list(take(["W6SRV", "W5"], [0], {"PEER_SCRIPT": "peer.py"}))
    assert asked == [
        *(("benchmarks.run", "W6"), ("w6srv", None)),
        *(("benchmarks.run", "W5/starts"), ("w5", None)),
    ]
