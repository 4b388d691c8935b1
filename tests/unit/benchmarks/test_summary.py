"""What the runs of a workload are summed up to, and which workloads words choose."""

from __future__ import annotations

import pytest

from benchmarks.measure import Figures, summary
from benchmarks.run import chosen


def test_a_row_has_medians_and_from_where_to_where_they_went() -> None:
    runs = [
        Figures(workload="W1", what="transfer", n=10, inflight=2, per_s=per_s, p50_ms=5)
        for per_s in (123.4, 1.23456, 12.3456)
    ]
    assert summary(runs) == {
        "workload": "W1",
        "what": "transfer",
        "n": 10,
        "inflight": 2,
        "per_s": 12.3,
        "p50_ms": 5,
        "repeats": 3,
        "spread": {"per_s": [1.235, 123], "p50_ms": [5, 5]},
    }


def test_histograms_are_added_up() -> None:
    runs = [
        Figures(workload="W7", what="mixed", n=3, histogram=[(1.0, 2), (2.0, 1)]),
        Figures(workload="W7", what="mixed", n=3, histogram=[(2.0, 3)]),
    ]
    assert summary(runs)["histogram"] == [(1.0, 2), (2.0, 4)]


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("W2", ["W2"]),
        ("W1 w3", ["W1/64", "W1/256", "W1/1", "W3"]),
        ("w1/256", ["W1/256"]),
        ("W7", ["W7/hold", "W7/search"]),
        ("w7/HOLD W6/1", ["W6/1", "W7/hold"]),
        ("W8/replay", ["W8/replay"]),
        ("w5/starts", ["W5/starts"]),
    ],
)
def test_words_choose_workloads_by_name_or_key(words: str, keys: list[str]) -> None:
    assert list(chosen(words)) == keys


def test_no_word_chooses_all() -> None:
    names = [key.partition("/")[0] for key in chosen("")]
    assert list(dict.fromkeys(names)) == [f"W{number}" for number in range(1, 9)]


def test_a_word_that_names_nothing_is_refused() -> None:
    with pytest.raises(SystemExit, match="no workload 'w9'; there are: W1/64 W1/256"):
        chosen("W1 W9")


def test_a_rate_must_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE", "0")
    with pytest.raises(SystemExit, match="RATE=0"):
        chosen("W7")
