"""What the demo counts and shows, on 80 columns and without a terminal."""

from __future__ import annotations

import io
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from examples.payments import report
from examples.payments.log import Fact
from examples.payments.pain001 import Batch, Finding, Rejection
from examples.payments.proof import Claim
from examples.payments.run import Progress
from examples.payments.tally import Tally, tally

WIDTH = 80


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def out(screen: io.StringIO) -> Console:
    return Console(file=screen, width=WIDTH, highlight=False, emoji=False)


def shown(screen: io.StringIO) -> str:
    text = screen.getvalue()
    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert not [char for char in text if char != "\n" and not char.isprintable()]
    return text


# --- counting


def journal(id: str, *events: tuple[str, dict[str, Any]]) -> list[Fact]:
    return [
        Fact(f"saga.transfer_money-{id}", version, 0, type, data)
        for version, (type, data) in enumerate(events)
    ]


def ended(how: str, type: str = "", *, declared: bool = True) -> tuple[str, dict[str, Any]]:
    return how, {"error": {"type": type, "declared": declared}}


def attempt_failed(outcome: str, *, again: bool) -> tuple[str, dict[str, Any]]:
    return "StepAttemptFailed", {"outcome": outcome, "retry_at": "soon" if again else None}


def test_the_tally_counts_each_ending_and_each_effort(tmp_path: Path) -> None:
    steps = tmp_path / "steps.log"
    steps.write_text("a/1#1\na/1#2\na/1#1\nb/1#1\na/1#1\n")
    log = [
        *journal("a", ("StepResolved", {"resolution": "skip"}), ("SagaCompleted", {})),
        *journal("b", ("SagaCompleted", {})),
        *journal(
            "c",
            ("StepScheduled", {"seq": 1}),
            attempt_failed("timed_out", again=True),
            attempt_failed("vanished", again=False),
            ("StepScheduled", {"seq": 2, "kind": "undo"}),
            ended("SagaCompensated", "TimeoutError", declared=False),
        ),
        *journal(
            "d",
            attempt_failed("failed", again=True),
            ("StepScheduled", {"seq": 2, "kind": "probe"}),
            ended("SagaCompensated", "AccountIsFrozen"),
        ),
        *journal("e", ended("SagaFailed", "LimitExceeded")),
        *journal("f", ended("SagaTerminated")),
        Fact("account-A", 0, 0, "AccountOpened", {}),
    ]

    assert tally(log, steps) == Tally(
        completed=2,
        compensated=Counter(TimeoutError=1, AccountIsFrozen=1),
        failed=Counter(LimitExceeded=1),
        other=Counter(SagaTerminated=1),
        decided={"saga.transfer_money-a"},
        completed_after_decision=1,
        retries=2,
        unanswered=2,
        probes=1,
        undos=1,
        attempts=5,
        repeated=2,
        refused_example="d",
        unknown_example="c",
        decided_example="a",
    )


def test_a_run_without_a_step_has_no_step_log(tmp_path: Path) -> None:
    assert tally([], tmp_path / "missing").attempts == 0


# --- showing


def batch_with(rejected: int) -> Batch:
    rejections = [Rejection(n, f"E-{n}", f"reason {n}") for n in range(1, rejected + 1)]
    return Batch("M", datetime.now(UTC), "09", [], rejections, [Finding(7, "the sum is off")])


@pytest.mark.parametrize(("verbose", "rows"), [(False, 20), (True, 23)])
def test_long_lists_are_cut_unless_asked_for(
    out: Console, screen: io.StringIO, rows: int, *, verbose: bool
) -> None:
    report.show_rejections(out, batch_with(23), verbose=verbose)

    text = shown(screen)
    assert "Rejected: 23 payments" in text
    assert sum("reason" in line for line in text.splitlines()) == rows
    assert ("and 3 more" in text) is not verbose
    assert "the sum is off" in text


def test_nothing_is_said_of_no_rejections(out: Console, screen: io.StringIO) -> None:
    report.show_rejections(out, Batch("M", datetime.now(UTC), "09"), verbose=False)

    assert shown(screen) == ""


def test_a_foreign_text_commands_no_terminal(out: Console, screen: io.StringIO) -> None:
    hostile = Rejection(1, "\x9b2J[bold]", "\x1b]0;owned\x07 [red]not markup[/red]")
    batch = Batch("\x1b[2J", datetime.now(UTC), "09", [], [hostile])

    report.show_rejections(out, batch, verbose=False)

    assert "[bold]" in shown(screen)
    assert "[red]not markup[/red]" in shown(screen)


def test_a_claim_that_is_untrue_is_shown_with_what_contradicts_it(
    out: Console, screen: io.StringIO
) -> None:
    faults = tuple(f"fault {n}" for n in range(8))
    report.show_claims(out, [Claim("this", "of 3", ()), Claim("that", "of 4", faults)])

    lines = shown(screen).splitlines()
    assert "  ✓ this: of 3" in lines
    assert "  ✗ that" in lines
    assert [line.strip() for line in lines if "fault" in line] == [*faults[:5]]
    assert "      and 3 more" in lines


def test_a_screen_without_symbols_gets_words() -> None:
    ascii_file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    report.show_claims(Console(file=ascii_file, width=WIDTH), [Claim("this", "", ())])

    ascii_file.seek(0)
    assert "true  this" in ascii_file.read()


def test_without_a_terminal_progress_is_a_line_now_and_then(
    out: Console, screen: io.StringIO
) -> None:
    progress = Progress(200)
    with report.following(out, 200) as show:
        for settled in range(201):
            progress.settled = settled
            progress.kills = 1 if settled >= 50 else 0
            show(progress)

    lines = [line[11:] for line in shown(screen).splitlines() if "settled" in line]
    assert lines[:4] == [
        "20 of 200 settled",
        "40 of 200 settled",
        "50 of 200 settled, kill 1",
        "60 of 200 settled",
    ]
    assert len(lines) == 11


def test_the_clock_stops_at_the_end() -> None:
    progress = Progress(10)
    progress.settled, progress.settled_before = 10, 4
    progress.end()

    assert progress.seconds == progress.seconds
    assert progress.rate * progress.seconds == pytest.approx(6)
