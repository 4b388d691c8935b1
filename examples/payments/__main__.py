"""`make demo`: pay a payment file as sagas, kill the worker again and again, prove the result.

python -m examples.payments [--file FILE] [--payments N] [--kills K] [--seed S] [--keep DIR]
"""

from __future__ import annotations

import asyncio
import io
import os
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from amends import AmendsError
from examples.payments import report
from examples.payments.audit import settings_of, verified
from examples.payments.batch import open_accounts, read_payments
from examples.payments.books import books_in
from examples.payments.folder import Folder, Refused, working_in
from examples.payments.log import read_log
from examples.payments.pain001 import Batch, PaymentFileError
from examples.payments.plan import Plan, make_plan
from examples.payments.proof import Claim, prove
from examples.payments.report import ROWS_MAX
from examples.payments.run import Progress, Run, Stuck, kill_points
from examples.payments.sample import Fault, write_sample
from examples.payments.tally import Tally, tally
from examples.payments.transfer import app as application
from examples.payments.transfer import transfer_money
from examples.payments.worker import Worker, WorkerDied

EXIT_CODES: Final = (
    "Exit codes: 0 all is proved; 1 something is untrue, or the run got stuck; 2 the file cannot "
    "be paid, and nothing was created; 130 it was stopped."
)
PAYMENTS: Final = 1000
PAYMENTS_PER_ACCOUNT: Final = 10
ACCOUNTS_MAX: Final = 100

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command(epilog=EXIT_CODES)
def demo(
    file: Annotated[
        Path | None, typer.Option(help="Pay this pain.001 file; nothing leaves this machine.")
    ] = None,
    payments: Annotated[int, typer.Option(min=1, help="Payments to generate.")] = PAYMENTS,
    kills: Annotated[int, typer.Option(min=0, help="How often to kill the worker.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another run.")] = 1,
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Work there, and go on with what is there.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="List every rejection.")] = False,
) -> None:
    """Pay a payment file, each payment as a saga, while the worker is killed with SIGKILL."""
    try:
        sys.exit(_demo(file, payments, kills, seed, keep, verbose=verbose))
    except PaymentFileError as error:
        report.complain(f"{file} cannot be paid: {error}")
    except OSError as error:
        report.complain(f"{error.filename or ''}: {error.strerror or error}")
    except Refused as error:
        report.complain(str(error))
    sys.exit(2)


def _demo(
    file: Path | None, payments: int, kills: int, seed: int, keep: Path | None, *, verbose: bool
) -> int:
    # A file that cannot be paid is refused before anything is created.
    batch = None if file is None else _read(file)
    with working_in(keep) as folder:
        source = str(file)
        if batch is None:
            source = _write_sample(folder.sample, payments, seed)
            batch = _read(folder.sample)
        plan = make_plan(batch.payments, seed)
        folder.keep_plan(plan)
        out = report.console()
        report.show_batch(out, source, batch, plan)
        report.show_rejections(out, batch, verbose=verbose)
        try:
            progress, trail = asyncio.run(
                _run(folder, plan, kill_points(len(plan.orders), kills, seed), out)
            )
        except (Stuck, WorkerDied, AmendsError, OSError) as error:
            report.complain(f"{error}\nWhat happened so far is in {folder.path}.")
            return 1
        except (KeyboardInterrupt, asyncio.CancelledError):
            report.complain(
                f"stopped, and the worker too. What happened so far is in {folder.path}."
            )
            return 130
        return _account_for(folder, plan, progress, trail, out)


def _read(file: Path) -> Batch:
    """Raises PaymentFileError, OSError and Refused."""
    if file.exists() and not file.is_file():
        raise Refused(f"{file} is not a file; it is read twice, so a pipe will not do")
    batch = read_payments(file)
    if not batch.payments:
        reasons = "".join(f"\nline {r.line}: {r.reason}" for r in batch.rejected[:ROWS_MAX])
        raise Refused(f"{file} has no payment that can be paid{reasons}")
    return batch


def _write_sample(path: Path, payments: int, seed: int) -> str:
    accounts = max(2, min(ACCOUNTS_MAX, payments // PAYMENTS_PER_ACCOUNT))
    spoiled = len(Fault)
    write_sample(path, payments=payments, accounts=accounts, seed=seed, spoiled=spoiled)
    return f"{path} (generated, {spoiled} payments faulty on purpose)"


async def _run(
    folder: Folder, plan: Plan, points: list[int], out: Console
) -> tuple[Progress, Claim]:
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    settings = settings_of(folder)
    async with application.client(settings) as client:
        await open_accounts(client, plan)
        with report.following(out, len(plan.orders)) as show:
            async with Worker(settings, log=folder.worker_log, steps=folder.step_log) as worker:
                progress = await Run(client, worker, plan, points, show).to_the_end()
                trail = await verified(client, folder)
                await worker.stop()
    return progress, trail


def _account_for(folder: Folder, plan: Plan, progress: Progress, trail: Claim, out: Console) -> int:
    """Show what happened and prove it; the exit code says whether it is proved."""
    counts = tally(read_log(folder.store), folder.step_log)
    report.show_tally(out, counts)
    report.show_effort(out, counts, progress)
    claims = prove(folder.store, plan)
    report.show_claims(out, claims)
    books = asyncio.run(books_in(folder.path))
    report.show_books(out, books)
    report.show_audit(out, trail)
    report.show_commands(out, _commands(folder, counts))
    proved = all(claim.holds for claim in (*claims, trail)) and not books.faults
    return 0 if proved else 1


def _commands(folder: Folder, counts: Tally) -> list[tuple[str, str]]:
    """What works from here, as it is to be typed."""
    db = f"--db {shlex.quote(str(folder.store))}"
    amends, python = _program("amends"), _program("python")
    found = [(f"{amends} list {db}", "every payment, the latest first")]
    for example, what in (
        (counts.refused_example, "one whose deposit was refused: the money goes back"),
        (
            counts.unknown_example,
            "one whose withdrawal nobody answered: given back, if it happened",
        ),
        (counts.decided_example, "one that a person had to decide about"),
    ):
        if example is not None:
            instance = shlex.quote(f"{transfer_money.name}/{example}")
            found.append((f"{amends} show {instance} {db}", what))
    books = f"{python} -m examples.payments.books {shlex.quote(str(folder.path))}"
    found.append((books, "the ledger's trial balance; with an account, its statement"))
    proof = f"{python} -m examples.payments.proof {shlex.quote(str(folder.path))}"
    key = f"--key {shlex.quote(str(folder.public_key))}"
    found.append((f"{amends} audit verify {key} {db}", "that nobody has changed the log since"))
    return [*found, (proof, "the proof again: change an event with sqlite3, and it is false")]


def _program(name: str) -> str:
    """A program of this environment, by the shortest path that works from here."""
    path = Path(sys.executable).with_name(name)
    with suppress(ValueError):
        path = path.relative_to(Path.cwd())
    return shlex.quote(str(path))


def main() -> None:
    """Run the demo, the same whatever is set for other engines and whatever stdout can show."""
    for name in [name for name in os.environ if name.startswith("AMENDS_")]:
        del os.environ[name]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    cli()


if __name__ == "__main__":
    main()
