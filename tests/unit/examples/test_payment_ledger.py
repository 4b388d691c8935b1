"""The ledger of the demo: it balances for a run that went well, and says what is wrong with others."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from amends.errors import ProjectionStopped
from amends.projections.build import build
from amends.projections.database import Database
from examples.payments.books import (
    DATABASE,
    Books,
    Statement,
    Trial,
    main,
    read_books,
    statement,
    statement_lines,
    trial_lines,
)
from examples.payments.ledger import Ledger
from examples.payments.proof import STORE
from examples.payments.transfer import app
from tests.unit.examples.finished_run import Forger, write_run

PAID = "saga.transfer_money-paid"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    asyncio.run(write_run(folder / STORE))
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    for file in copy.glob(f"{DATABASE}*"):
        file.unlink()
    return copy


async def build_ledger(folder: Path, database: Database) -> None:
    async with app.client(folder / STORE) as client:
        await build(Ledger(), client.backend.store, database)


async def books_of(folder: Path) -> Books:
    async with Database.at("sqlite://") as database:
        await build_ledger(folder, database)
        return await read_books(database)


async def test_the_books_of_a_run_balance(folder: Path) -> None:
    books = await books_of(folder)
    assert books.faults == ()
    assert books.trials == [Trial("EUR", 1100, 0, -1100), Trial("JPY", 10, 0, -10)]
    assert [trial.total for trial in books.trials] == [0, 0]
    assert books.postings == 5 + 6
    lines = trial_lines(books)
    assert [line.split() for line in lines[1:]] == [
        ["EUR", "11.00", "0.00", "-11.00", "0.00"],
        ["JPY", "10", "0", "-10", "0"],
    ]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("stream", "type", "fields", "said"),
    [
        (
            "account-B", "MoneyDeposited", {"cents": 499},
            "payment paid: it is over (SagaCompleted), and money is on its way (1)",
        ),
        (
            "account-B", "MoneyDeposited", {"payment": "other"},
            "payment other: money moved, and no such payment was begun (-500)",
        ),
    ],
)  # fmt: skip
async def test_an_alarm_about_money_that_is_not_conserved(
    folder: Path, stream: str, type: str, fields: dict[str, object], said: str
) -> None:
    Forger(folder / STORE).change(stream, type, **fields)
    faults = (await books_of(folder)).faults
    assert said in faults


async def test_a_payment_on_its_way_is_no_alarm_until_it_is_over(folder: Path) -> None:
    forger = Forger(folder / STORE)
    forger.delete("account-B", "MoneyDeposited")
    (fault,) = (await books_of(folder)).faults
    assert fault == "payment paid: it is over (SagaCompleted), and money is on its way (500)"
    forger.delete(PAID, "SagaCompleted")
    books = await books_of(folder)
    assert books.faults == ()
    assert books.trials[0] == Trial("EUR", 600, 500, -1100)


async def test_an_alarm_ends_when_its_cause_does(folder: Path) -> None:
    forger = Forger(folder / STORE)
    forger.delete("account-B", "MoneyDeposited")
    assert (await books_of(folder)).faults
    forger.add("account-A", "MoneyRefunded", payment="paid", cents=500)
    assert (await books_of(folder)).faults == ()


async def test_an_event_that_the_books_do_not_know_stops_them(folder: Path) -> None:
    Forger(folder / STORE).add("account-A", "MoneyBurnt", cents=1)
    with pytest.raises(ProjectionStopped, match="the books do not know MoneyBurnt"):
        await books_of(folder)


async def test_a_statement_as_of_a_day(folder: Path) -> None:
    today = datetime.now(UTC).date()
    async with Database.at("sqlite://") as database:
        await build_ledger(folder, database)
        found = await statement(database, "A", today)
        assert isinstance(found, Statement)
        assert [line["cents"] for line in found.lines] == [1000, -500, -300, 300]
        assert (found.before, found.after) == (0, 500)
        later = await statement(database, "A", today + timedelta(days=30))
        assert later == Statement("A", "EUR", 500, [], 500)
        assert await statement(database, "A", today - timedelta(days=1)) is None
        assert await statement(database, "nobody", today) is None
        lines = statement_lines(found, today)
    assert lines[-1].split()[1:] == ["MoneyRefunded", "back", "3.00", "EUR", "5.00", "EUR"]


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder)]) == 2
    assert "the trial balance" in capsys.readouterr().err

    async def make() -> None:
        async with Database.at(f"sqlite:///{folder / DATABASE}") as database:
            await build_ledger(folder, database)

    asyncio.run(make())
    assert main([str(folder)]) == 0
    assert "EUR" in capsys.readouterr().out
    assert main([str(folder), "A"]) == 0
    assert "MoneyWithdrawn paid" in capsys.readouterr().out
    assert main([str(folder), "A", "1999-01-01"]) == 1
    assert main([str(folder), "A", "tomorrow"]) == 2
    assert str(date(2026, 5, 1)) in capsys.readouterr().err
