"""The proof of the demo: true of a run that went well, and false of every falsified one."""

from __future__ import annotations

import ast
import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.payments import log, proof
from examples.payments.proof import PLAN as PLAN_FILE
from examples.payments.proof import STORE, Claim, main, prove
from tests.unit.examples.finished_run import PLAN, Forger, write_run

MONEY = "no cent is lost or made"
ONCE = "no payment is applied twice"
SETTLED = "every payment is settled"
ABOVE_ZERO = "no account is below zero"
GAPS = "no stream has a gap"
READABLE = "the log can be read"

PAID = "saga.transfer_money-paid"
BACK = "saga.transfer_money-back"
POOR = "saga.transfer_money-poor"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    asyncio.run(write_run(folder / STORE))
    PLAN.save(folder / PLAN_FILE)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def untrue(claims: list[Claim]) -> dict[str, tuple[str, ...]]:
    return {claim.title: claim.faults for claim in claims if not claim.holds}


def test_a_run_that_went_well_is_proved(folder: Path) -> None:
    claims = prove(folder / STORE, PLAN)

    assert untrue(claims) == {}
    assert [(claim.title, claim.detail) for claim in claims] == [
        (MONEY, "11.00 EUR in all accounts, before and after"),
        (MONEY, "10 JPY in all accounts, before and after"),
        (ONCE, "6 bookings, each once"),
        (SETTLED, "5 sagas ended as the accounts say"),
        (ABOVE_ZERO, "5 accounts, at any moment of their history"),
        (GAPS, "22 events, numbered 0, 1, 2 … in each"),
    ]


Forgery = Callable[[Forger], None]


@pytest.mark.parametrize(
    ("forge", "found"),
    [
        pytest.param(
            lambda f: f.delete("account-B", "MoneyDeposited"),
            {MONEY: "it was 11.00 EUR and is 6.00 EUR", SETTLED: "paid: its saga ended completed"},
            id="money that arrived is gone",
        ),
        pytest.param(
            lambda f: f.add("account-B", "MoneyDeposited", payment="paid", cents=500),
            {
                MONEY: "it was 11.00 EUR and is 16.00",
                ONCE: "paid: MoneyDeposited 2 times",
                SETTLED: "paid",
            },
            id="a deposit is booked twice",
        ),
        pytest.param(
            lambda f: f.change("account-B", "MoneyDeposited", cents=501),
            {MONEY: "and is 11.01 EUR", SETTLED: "MoneyDeposited 501 on B"},
            id="a cent more arrives",
        ),
        pytest.param(
            lambda f: f.change("account-B", "MoneyDeposited", payment="nobody's"),
            {ONCE: "nobody's: booked, and no payment of the file", SETTLED: "paid"},
            id="the deposit is for a payment that nobody asked for",
        ),
        pytest.param(
            lambda f: f.add("account-A", "MoneyRefunded", payment="paid", cents=500),
            {MONEY: "is 16.00", ONCE: "paid: both deposited and refunded", SETTLED: "paid"},
            id="what arrived is given back too",
        ),
        pytest.param(
            lambda f: f.delete("account-A", "MoneyRefunded"),
            {
                MONEY: "is 8.00 EUR",
                SETTLED: "back: its saga ended compensated, but booked was: MoneyWithdrawn 300 on A",
            },
            id="a compensated payment is not given back",
        ),
        pytest.param(
            lambda f: f.change("account-A", "AccountOpened", cents=900),
            {MONEY: "A was to open with 1000 cents, not ('EUR', 900)"},
            id="an account opened with less",
        ),
        pytest.param(
            lambda f: f.delete("account-C", "AccountOpened"),
            {
                MONEY: "C was to open with 0 cents, not None",
                GAPS: "account-C has version 1 instead of 0",
            },
            id="an account was never opened",
        ),
        pytest.param(
            lambda f: f.change("account-C", "AccountOpened", currency="JPY"),
            {MONEY: "C was to open with 0 cents, not ('JPY', 0)"},
            id="an account is in another currency",
        ),
        pytest.param(
            lambda f: f.add("account-A", "AccountOpened", currency="EUR", cents=0),
            {GAPS: "account-A was opened twice", MONEY: "not ('EUR', 0)"},
            id="an account was opened twice",
        ),
        pytest.param(
            lambda f: f.delete(PAID, "SagaCompleted"),
            {SETTLED: "paid: its saga has not ended"},
            id="a saga has not ended",
        ),
        pytest.param(
            lambda f: f.add(PAID, "SagaFailed", error={}),
            {SETTLED: "paid: its saga ended 2 times"},
            id="a saga ended twice",
        ),
        pytest.param(
            lambda f: f.retype(PAID, "SagaCompleted", "SagaCompensated"),
            {
                SETTLED: "paid: its saga ended compensated, but booked was: MoneyWithdrawn 500 on A, MoneyDeposited 500 on B"
            },
            id="a saga says compensated, and the money arrived",
        ),
        pytest.param(
            lambda f: f.retype(BACK, "SagaCompensated", "SagaFailed"),
            {SETTLED: "back: its saga ended failed"},
            id="a saga says that there was nothing to undo, and there was",
        ),
        pytest.param(
            lambda f: f.retype(POOR, "SagaFailed", "SagaCompleted"),
            {SETTLED: "poor: its saga ended completed, but booked was: nothing"},
            id="a saga says completed, and nothing was booked",
        ),
        pytest.param(
            lambda f: f.retype(POOR, "SagaFailed", "SagaTerminated"),
            {SETTLED: "poor: its saga ended terminated"},
            id="somebody ended a saga",
        ),
        pytest.param(
            lambda f: f.change(PAID, "SagaStarted", input={"payer": "A"}),
            {SETTLED: "paid: it was started as {'payer': 'A'}"},
            id="a saga was started with another payment",
        ),
        pytest.param(
            lambda f: f.retype(PAID, "SagaStarted", "SagaResumed"),
            {SETTLED: "paid: it was never started"},
            id="a saga was never started",
        ),
        pytest.param(
            lambda f: f.add(PAID, "StepParked", seq=3),
            {SETTLED: "paid: its saga waits for a person"},
            id="a step waits for a person after the end",
        ),
        pytest.param(
            lambda f: f.add(PAID, "StepUnknown", seq=3, then="park"),
            {SETTLED: "paid: its saga waits for a person"},
            id="an unknown step waits for a person",
        ),
        pytest.param(
            lambda f: f.delete("account-A", "AccountOpened"),
            {
                MONEY: "A was to open",
                ABOVE_ZERO: "A is at -500 cents at position",
                GAPS: "account-A",
            },
            id="an account pays what it does not have",
        ),
        pytest.param(
            lambda f: f.garble("account-A", "AccountOpened"),
            {READABLE: "JSONDecodeError"},
            id="an event is no JSON",
        ),
        pytest.param(
            lambda f: f.retype(PAID, "SagaCompleted", "AccountOpened"),
            {SETTLED: "paid: its saga has not ended"},
            id="an account's event in a journal",
        ),
    ],
)
def test_a_falsified_run_is_not(folder: Path, forge: Forgery, found: dict[str, str]) -> None:
    forge(Forger(folder / STORE))

    faults = untrue(prove(folder / STORE, PLAN))

    assert faults.keys() == found.keys()
    for title, part in found.items():
        assert part in "\n".join(faults[title])


def test_an_account_that_was_overdrawn_for_a_moment_is_found(folder: Path) -> None:
    forger = Forger(folder / STORE)
    forger.add("account-C", "MoneyWithdrawn", payment="x", cents=1)
    forger.add("account-C", "MoneyDeposited", payment="x", cents=1)

    faults = untrue(prove(folder / STORE, PLAN))

    assert faults.keys() == {ONCE, ABOVE_ZERO}
    assert len(faults[ABOVE_ZERO]) == 1


def test_a_decision_about_what_was_parked_settles_it(folder: Path) -> None:
    forger = Forger(folder / STORE)
    forger.add(PAID, "StepParked", seq=3)
    forger.add(PAID, "StepResolved", seq=3, resolution="skip", who="me", why="so")

    assert untrue(prove(folder / STORE, PLAN)) == {}


def test_the_proof_runs_alone_and_says_so_with_its_exit_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["proof", str(folder)])
    assert main() == 0
    assert f"true   {ONCE}: 6 bookings, each once\n" in capsys.readouterr().out

    Forger(folder / STORE).delete("account-B", "MoneyDeposited")
    assert main() == 1
    said = capsys.readouterr().out
    assert f"FALSE  {MONEY}\n           it was 11.00 EUR and is 6.00 EUR\n" in said
    assert f"true   {GAPS}" in said


@pytest.mark.parametrize("missing", [STORE, PLAN_FILE])
def test_there_is_nothing_to_prove(
    folder: Path, missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / missing).unlink()
    monkeypatch.setattr("sys.argv", ["proof", str(folder)])

    assert main() == 2
    assert "no finished run to prove" in capsys.readouterr().err
    assert not (folder / missing).exists()


def test_a_file_that_is_no_store_is_not_proved(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"x" * 5000)
    with pytest.raises(sqlite3.Error):
        prove(tmp_path / "x.db", PLAN)


def test_the_oracle_knows_nothing_of_the_engine() -> None:
    for module in (proof, log):
        assert module.__file__ is not None
        tree = ast.parse(Path(module.__file__).read_text())
        imported = [
            name
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        ]
        assert not [name for name in imported if name.startswith("amends")]
