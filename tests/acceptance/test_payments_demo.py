"""The demo as a user runs it: real processes, real kills, and what stands on the screen."""

from __future__ import annotations

import os
import pty
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from amends import Settings
from amends.backend import open_backend
from examples.payments.proof import STORE
from tests.unit.examples.finished_run import Forger
from tests.unit.examples.payment_xml import DE, FR, GOOD

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 100
ARGUMENTS = ("--payments", "120", "--kills", "3", "--seed", "7")
BLOCK_END = "    </PmtInf>\n"


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "examples.payments", *map(str, arguments)]


def environment(columns: int = 80) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns), "TERM": "xterm"}


def demo(
    *arguments: str | Path, cwd: Path = ROOT, columns: int = 80
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=environment(columns),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def number_of(what: str, text: str) -> int:
    found = re.search(rf"^ *([\d,]+) +{re.escape(what)}(?!\w)", text, re.MULTILINE)
    return int(found[1].replace(",", "")) if found else 0


def proof_lines(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if re.match(r"  [✓✗] ", line)]


Finished = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("demo") / "run"
    return folder, demo(*ARGUMENTS, "--keep", folder)


@pytest.fixture
def again(first: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run, to go on with."""
    return Path(shutil.copytree(first[0], tmp_path / "run"))


# --- a run


def test_every_payment_is_settled_and_proved_although_the_worker_is_killed(
    first: Finished,
) -> None:
    _, run = first
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    assert "Rejected: 6 payments" in run.stdout
    endings = [number_of(what, run.stdout) for what in ("completed", "compensated", "failed")]
    assert sum(endings) == 120
    assert all(endings)
    assert number_of("kills survived", run.stdout) == 3
    assert number_of("attempts", run.stdout) > 240
    assert number_of("begun again", run.stdout) > 0
    assert proof_lines(run.stdout) == ["✓"] * 6
    assert re.search(r"balanced: \d+ postings of two sides each", run.stdout)


def test_nothing_went_wrong_that_nobody_ordered(first: Finished) -> None:
    folder, run = first
    assert '"level": "error"' not in (folder / "worker.log").read_text(), run.stderr
    with closing(sqlite3.connect(folder / STORE)) as file:
        for table in ("messages", "dead_letters"):
            assert file.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_the_output_is_plain_and_fits_80_columns(first: Finished) -> None:
    _, run = first
    report, commands = run.stdout.split("Look for yourself")
    assert all(char.isprintable() for char in run.stdout.replace("\n", ""))
    assert all(len(line) <= 80 for line in report.splitlines())
    assert commands


def test_the_commands_that_it_names_work(first: Finished) -> None:
    _, run = first
    named = run.stdout.split("Look for yourself")[1].splitlines()
    lines = [line.strip() for line in named if line.strip() and not line.startswith("  #")]
    assert len(lines) >= 3
    for line in lines:
        ran = subprocess.run(
            shlex.split(line), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert ran.returncode == 0, line + ran.stderr
        assert ran.stdout


def test_the_same_file_again_pays_nothing_twice(first: Finished, again: Path) -> None:
    rerun = demo(*ARGUMENTS, "--keep", again)

    assert rerun.returncode == 0, rerun.stdout + rerun.stderr
    assert "120 payments were settled before, and left alone" in rerun.stdout
    assert proof_lines(rerun.stdout) == ["✓"] * 6
    (bookings,) = re.findall(r"[\d,]+ bookings", first[1].stdout)
    assert bookings in rerun.stdout


def test_a_store_that_was_tampered_with_is_not_proved(again: Path) -> None:
    forger = Forger(again / STORE)
    payer = re.search(r'"payer":\s*"(\w+)"', (again / "plan.json").read_text())
    assert payer is not None
    forger.add(f"account-{payer[1]}", "MoneyDeposited", payment="from nowhere", cents=1)

    rerun = demo(*ARGUMENTS, "--keep", again)

    assert rerun.returncode == 1, rerun.stderr
    assert proof_lines(rerun.stdout) == ["✗", "✗", "✓", "✓", "✓", "✓"]
    assert "from nowhere: booked, and no payment of the file" in rerun.stdout
    assert "from nowhere: money moved, and no such payment was begun" in rerun.stdout
    assert "balanced:" not in rerun.stdout


def test_a_log_that_was_changed_is_not_what_was_recorded(again: Path) -> None:
    """The accounts still agree with each other: only the audit trail can tell."""
    with closing(sqlite3.connect(again / STORE)) as file, file:
        (position,) = file.execute(
            "SELECT max(position) FROM events WHERE type = 'StepCompleted'"
        ).fetchone()
        file.execute(
            "UPDATE events SET metadata = CAST(replace(CAST(metadata AS TEXT), '{', '{ ') AS BLOB) "
            "WHERE position = ?",
            [position],
        )

    rerun = demo(*ARGUMENTS, "--keep", again)

    assert rerun.returncode == 1, rerun.stderr
    assert proof_lines(rerun.stdout) == ["✓", "✓", "✓", "✓", "✓", "✗"], rerun.stderr
    assert f"position {position}: another metadata in the log" in rerun.stdout


def test_another_run_is_kept_out_of_a_folder(again: Path) -> None:
    other = demo("--payments", "50", "--keep", again)

    assert other.returncode == 2
    assert "another file or seed" in other.stderr
    assert other.stdout == ""


def test_on_a_terminal_there_is_a_bar(tmp_path: Path) -> None:
    code, screen = on_a_terminal(command("--payments", "20", "--kills", "1", "--keep", tmp_path))

    assert code == 0, screen
    assert "━" in screen
    assert "20 of 20" in screen
    assert "1 kill" in screen
    assert screen.count("✓") == 6


def on_a_terminal(arguments: list[str]) -> tuple[int, str]:
    master, slave = pty.openpty()
    with subprocess.Popen(
        arguments, cwd=ROOT, env=environment(), stdout=slave, stderr=slave
    ) as process:
        os.close(slave)
        screen = b""
        with suppress(OSError):  # Linux says so when the other side is closed
            while chunk := os.read(master, 65536):
                screen += chunk
        os.close(master)
        return process.wait(timeout=TIMEOUT_S), screen.decode()


# --- files


def transaction(
    id: str = "<EndToEndId>X</EndToEndId>",
    amount: str = '<InstdAmt Ccy="EUR">1.00</InstdAmt>',
    creditor: str = "<Cdtr><Nm>Somebody</Nm></Cdtr>",
    account: str = f"<Id><IBAN>{FR}</IBAN></Id>",
) -> str:
    return (
        f"<CdtTrfTxInf><PmtId>{id}</PmtId><Amt>{amount}</Amt>{creditor}"
        f"<CdtrAcct>{account}</CdtrAcct></CdtTrfTxInf>\n"
    )


def amount(text: str, currency: str = "EUR") -> str:
    return transaction(amount=f'<InstdAmt Ccy="{currency}">{text}</InstdAmt>')


FAULTY = {
    "the end-to-end id is missing": transaction(id=""),
    "the end-to-end id is empty": transaction(id="<EndToEndId> </EndToEndId>"),
    "was the id of line": transaction(id="<EndToEndId>E-1</EndToEndId>"),
    "NOTPROVIDED and there is no instruction": transaction(id="<EndToEndId>NOTPROVIDED</EndToEndId>"),
    "the amount is missing": transaction(amount=""),
    "is zero": amount("0.00"),
    "is negative": amount("-1.00"),
    "has more decimals than EUR has": amount("1.001"),
    "has more than 18 digits": amount("12345678901234567.00"),
    "is not a decimal number": amount("1,00"),
    "no currency of ISO 4217": amount("1.00", "EURO"),
    "is held in EUR": amount("1.00", "USD"),
    "the currency of the amount is missing": transaction(amount="<InstdAmt>1.00</InstdAmt>"),
    "an equivalent in another currency": transaction(
        amount='<EqvtAmt><Amt Ccy="EUR">1.00</Amt><CcyOfTrf>USD</CcyOfTrf></EqvtAmt>'
    ),
    "the payee's name is missing": transaction(creditor=""),
    "the payee's IBAN is missing": transaction(account=""),
    "wrong check digits": transaction(account="<Id><IBAN>DE00370400440532013000</IBAN></Id>"),
    "payer and payee are one account": transaction(account=f"<Id><IBAN>{DE}</IBAN></Id>"),
}  # fmt: skip


def test_every_faulty_payment_is_listed_and_the_rest_is_paid(tmp_path: Path) -> None:
    file = tmp_path / "faulty.xml"
    faulty = [xml.replace(">X<", f">X-{n}<") for n, xml in enumerate(FAULTY.values())]
    file.write_text(GOOD.replace(BLOCK_END, "".join(faulty) + BLOCK_END), encoding="utf-8")
    first_line = GOOD[: GOOD.index(BLOCK_END)].count("\n") + 1

    run = demo("--file", file, "--kills", "0", "--keep", tmp_path / "run", columns=200)

    assert run.returncode == 0, run.stdout + run.stderr
    for line, reason in enumerate(FAULTY, start=first_line):
        assert re.search(rf"^ +{line}  .*{re.escape(reason)}", run.stdout, re.MULTILINE), reason
    assert "the file says '2' payments (NbOfTxs), but has 20" in run.stdout
    assert "2 payments, 3.50 EUR" in run.stdout
    assert number_of("completed", run.stdout) == 2
    assert proof_lines(run.stdout) == ["✓"] * 6


BOMB = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<Document xmlns="urn:iso:std:iso:20022:tech:xsd:pain.001.001.09">&b;</Document>
"""
ONLY_FAULTY = re.sub(r"(<InstdAmt[^>]*>)[\d.]+", r"\1 0", GOOD)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(BOMB, "line 2: the file has a document type declaration", id="bomb"),
        pytest.param("hello", "not well-formed XML", id="no XML"),
        pytest.param(GOOD[:900], "not well-formed XML", id="cut off"),
        pytest.param(
            GOOD.replace("pain.001.001.09", "camt.053.001.08"), "camt.053", id="statement"
        ),
        pytest.param(ONLY_FAULTY, "no payment that can be paid", id="nothing to pay"),
        pytest.param(None, "No such file or directory", id="missing"),
    ],
)
def test_a_file_that_cannot_be_paid_leaves_nothing_behind(
    tmp_path: Path, text: str | None, message: str
) -> None:
    file = tmp_path / "given.xml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    before = set(tmp_path.iterdir())

    run = demo("--file", file.name, cwd=tmp_path)

    assert run.returncode == 2
    assert run.stderr.startswith("error: ")
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
    assert set(tmp_path.iterdir()) == before


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    run = demo("--file", tmp_path, cwd=tmp_path)

    assert run.returncode == 2
    assert "is not a file" in run.stderr
    assert not list(tmp_path.iterdir())


# --- ends


@contextmanager
def running(folder: Path) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """A demo that has settled something, and its worker."""
    with subprocess.Popen(
        command("--payments", "300", "--kills", "0", "--keep", folder),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any(" settled" in line for line in process.stdout)
        (worker,) = psutil.Process(process.pid).children()
        try:
            yield process, worker
        finally:
            with suppress(ProcessLookupError):
                process.kill()


def test_a_demo_that_is_told_to_stop_leaves_no_worker(tmp_path: Path) -> None:
    with running(tmp_path) as (process, worker):
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=TIMEOUT_S)

    assert process.returncode == 130
    assert "stopped, and the worker too" in said
    assert not worker.is_running()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_a_demo_that_is_killed_leaves_no_worker(tmp_path: Path) -> None:
    with running(tmp_path) as (process, worker):
        process.kill()
        process.communicate(timeout=TIMEOUT_S)

    gone, _ = psutil.wait_procs([worker], timeout=TIMEOUT_S)
    assert gone == [worker]


async def test_a_worker_that_ends_by_itself_is_not_waited_for(tmp_path: Path) -> None:
    async with open_backend(Settings.of(tmp_path / STORE), engine=True):
        run = demo("--payments", "3", "--kills", "0", "--keep", tmp_path)

    assert run.returncode == 1
    assert "the worker ended with code 1" in run.stderr
    assert "no engine of your own" in run.stderr
