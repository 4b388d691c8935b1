"""What the demo shows: calm on a terminal of 80 columns, plain lines where there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from examples.payments.books import Books, trial_lines
from examples.payments.pain001 import Batch
from examples.payments.plan import Plan, amount_text
from examples.payments.proof import Claim
from examples.payments.run import Progress
from examples.payments.tally import Tally

ROWS_MAX: Final = 20
FAULTS_MAX: Final = 5
#: Without a terminal, a line is printed whenever so much more of the payments is settled.
LINES_PER_RUN: Final = 10
#: What the name of an error does not say by itself.
MEANINGS: Final = {"TimeoutError": "no answer, so nobody knows whether it was withdrawn"}


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr."""
    return Console(stderr=stderr, highlight=False, emoji=False)


def printable(text: str) -> str:
    """Text of a foreign file, without what a terminal would take for commands."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def complain(text: str) -> None:
    """Say on stderr what went wrong."""
    lines = "\n".join(map(printable, text.splitlines()))
    console(stderr=True).print(Text.assemble(("error: ", "bold red"), lines), soft_wrap=True)


def heading(out: Console, text: str, more: str = "") -> None:
    """Begin a part of the report."""
    out.print()
    out.print(Text.assemble((text, "bold"), ("  " if more else "", ""), (more, "dim")))


def show_batch(out: Console, source: str, batch: Batch, plan: Plan) -> None:
    """What is going to be paid, and between whom."""
    total: Counter[str] = Counter()
    for order in plan.orders:
        total[order.currency] += order.cents
    amounts = ", ".join(amount_text(cents, name) for name, cents in sorted(total.items()))
    poor = sum(opening.poor for opening in plan.openings)
    frozen = sum(opening.frozen for opening in plan.openings)
    made_up = f"{len(plan.openings):,}, with balances made up here"
    short = [f"{poor} too low" if poor else "", f"{frozen} frozen" if frozen else ""]
    accounts = ", ".join([made_up, *filter(None, short)])
    heading(out, "Amends demo", "each payment is a saga: withdraw, deposit, notify")
    facts = _grid()
    facts.add_row("  file", Text(printable(source)))
    facts.add_row("  message", Text(f"{printable(batch.message_id)}, pain.001.001.{batch.version}"))
    facts.add_row("  to pay", f"{_count(len(plan.orders), 'payment')}, {amounts}")
    facts.add_row("  accounts", accounts)
    out.print(facts)


def show_rejections(out: Console, batch: Batch, *, verbose: bool) -> None:
    """What of the file is not paid, and what is odd about the file."""
    rejected = [(r.line, r.end_to_end_id or "", r.reason) for r in batch.rejected]
    findings = [(f.line, "", f.message) for f in batch.findings]
    for title, rows in (
        (f"Rejected: {_count(len(rejected), 'payment')}; the rest is paid", rejected),
        ("Odd about the file; it is paid all the same", findings),
    ):
        if rows:
            heading(out, title)
            out.print(_lines_table(rows if verbose else rows[:ROWS_MAX]))
            if not verbose and len(rows) > ROWS_MAX:
                out.print(Text(f"  and {len(rows) - ROWS_MAX:,} more (--verbose)", style="dim"))


def _lines_table(rows: Sequence[tuple[int, str, str]]) -> Table:
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    made.add_column("  line", justify="right", no_wrap=True)
    if any(row[1] for row in rows):
        made.add_column("payment", no_wrap=True)
    made.add_column("why", overflow="fold")
    for line, name, why in rows:
        cells = [Text(f"  {line}"), Text(printable(name)), Text(printable(why))]
        made.add_row(*(cells if len(made.columns) == 3 else (cells[0], cells[2])))
    return made


@contextmanager
def following(out: Console, total: int) -> Iterator[Callable[[Progress], None]]:
    """Gives what shows the progress: a bar on a terminal, a line now and then elsewhere."""
    heading(out, "Running", "the worker is a process of its own, and killed with SIGKILL")
    if not out.is_terminal:
        yield _lines(out)
        return
    columns = (
        TextColumn(" "),
        BarColumn(bar_width=None, complete_style="green", finished_style="green"),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TextColumn("[dim]{task.fields[rate]:,.0f}/s"),
        TextColumn("[yellow]{task.fields[kills]}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=out, expand=True) as bar:
        task = bar.add_task("", total=total, rate=0, kills="")

        def show(progress: Progress) -> None:
            bar.update(
                task,
                completed=progress.settled,
                rate=progress.rate,
                kills=_count(progress.kills, "kill"),
            )

        yield show


def _lines(out: Console) -> Callable[[Progress], None]:
    shown = (0, 0)

    def show(progress: Progress) -> None:
        nonlocal shown
        now = (progress.settled * LINES_PER_RUN // progress.total, progress.kills)
        if now == shown:
            return
        kill = f", kill {progress.kills}" if progress.kills > shown[1] else ""
        shown = now
        settled = f"{progress.settled:,} of {progress.total:,} settled"
        out.print(f"  {progress.seconds:5.1f} s  {settled}{kill}")

    return show


def show_tally(out: Console, made: Tally) -> None:
    """How the payments ended, and what that took."""
    heading(out, "What became of the payments")
    facts = _grid(number=True)
    facts.add_row(f"{made.completed:,}", "completed")
    if decided := made.completed_after_decision:
        person = "(here the demo itself)"
        facts.add_row("", _detail(decided, "after they parked, and a person decided", person))
    for counts, what in (
        (made.compensated, "compensated: what was withdrawn is given back"),
        (made.failed, "failed: there was nothing to undo"),
        (made.other, "ended otherwise"),
    ):
        if counts:
            facts.add_row(f"{counts.total():,}", what)
            for reason, count in counts.most_common():
                meaning = MEANINGS.get(reason, "")
                facts.add_row("", _detail(count, printable(reason), meaning))
    out.print(facts)


def show_effort(out: Console, made: Tally, progress: Progress) -> None:
    """What the payments took."""
    heading(out, "What it took")
    took = _grid(number=True)
    for number, what, more in (
        (progress.kills, "kills survived", ""),
        (made.attempts, "attempts", "each a run of an activity"),
        (made.repeated, "begun again", "after a kill, under the same number"),
        (made.unanswered, "unanswered", "timed out, or lost with the worker"),
        (made.retries, "retries", ""),
        (made.probes, "probes", "asked the payee's account whether a deposit is there"),
        (made.undos, "undos", ""),
    ):
        took.add_row(f"{number:,}", f"{what:<14}[dim]{more}")
    digits = 0 if progress.rate >= 10 else 1
    rate = f"{progress.rate:,.{digits}f} payments/s, kills and restarts included"
    if progress.settled_before:
        rate = f"{progress.settled_before:,} payments were settled before, and left alone"
    took.add_row(f"{progress.seconds:.1f}", f"{'seconds':<14}[dim]{rate}")
    out.print(took)


def show_claims(out: Console, claims: Sequence[Claim]) -> None:
    """The proof: every claim with a check or a cross, and what contradicts it."""
    heading(out, "The proof", "computed from the events alone, with none of the engine's code")
    for claim in claims:
        _show_claim(out, claim)


def show_audit(out: Console, claim: Claim) -> None:
    """What `amends audit verify` says."""
    heading(out, "The audit trail", "kept by the worker, computed anew from the log")
    _show_claim(out, claim)


def _show_claim(out: Console, claim: Claim) -> None:
    yes, no = ("true ", "FALSE") if out.options.ascii_only else ("✓", "✗")
    mark = (yes, "bold green") if claim.holds else (no, "bold red")
    out.print(Text.assemble("  ", mark, f" {claim.title}"), end="")
    out.print(Text(f": {claim.detail}", style="dim") if claim.holds else "")
    for fault in claim.faults[:FAULTS_MAX]:
        out.print(Text(f"      {printable(fault)}", style="red"))
    if len(claim.faults) > FAULTS_MAX:
        out.print(Text(f"      and {len(claim.faults) - FAULTS_MAX:,} more", style="red"))


def show_books(out: Console, books: Books) -> None:
    """The trial balance of the ledger, and whether anything is wrong with it."""
    heading(out, "The ledger", "a projection that the worker kept, through every kill")
    for line in trial_lines(books):
        out.print(Text(line))
    for fault in books.faults[:FAULTS_MAX]:
        out.print(Text(f"      {printable(fault)}", style="red"))
    if not books.faults:
        what = f"{_count(books.postings, 'posting')} of two sides each, and nothing left over"
        out.print(Text(f"  balanced: {what}", style="green"))


def show_commands(out: Console, commands: Sequence[tuple[str, str]]) -> None:
    """What to type next: each command on a line of its own, to be copied."""
    heading(out, "Look for yourself")
    for command, what in commands:
        out.print(Text(f"  # {what}", style="dim"), soft_wrap=True)
        out.print(Text(f"  {command}"), soft_wrap=True)


def _detail(number: int, what: str, more: str = "") -> Text:
    return Text.assemble(f"{number:>4,} {what}", (f"  {more}" if more else "", "dim"))


def _grid(*, number: bool = False) -> Table:
    made = Table.grid(padding=(0, 2, 0, 0))
    if number:
        made.add_column(justify="right", min_width=7, no_wrap=True, style="bold")
    else:
        made.add_column(min_width=10, no_wrap=True, style="dim")
    made.add_column(overflow="fold")
    return made


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
