"""What the demo shows: calm on a terminal of 80 columns, plain lines where there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from examples.payments.pain001 import Batch
from examples.payments.plan import Plan, amount_text
from examples.payments.proof import Claim
from examples.payments.run import Progress
from examples.payments.tally import Tally

ROWS_MAX: Final = 20
FAULTS_MAX: Final = 5
#: Without a terminal, a line is printed whenever so much more of the payments is settled.
LINES_PER_RUN: Final = 10


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
    poor = sum(opening.poor for opening in plan.openings)
    frozen = sum(opening.frozen for opening in plan.openings)
    heading(out, "Amends", "1 payment = 1 saga: withdraw, deposit, notify")
    facts = _grid()
    facts.add_row("file", Text(printable(source)))
    facts.add_row("message", Text(f"{printable(batch.message_id)}, pain.001.001.{batch.version}"))
    amounts = " and ".join(amount_text(cents, name) for name, cents in sorted(total.items()))
    facts.add_row("to pay", f"{_count(len(plan.orders), 'payment')}, {amounts}")
    facts.add_row("rejected", f"{len(batch.rejected):,}" if batch.rejected else "none")
    made_up = f"{len(plan.openings):,}, their balances made up: {poor} hold too little"
    facts.add_row("accounts", f"{made_up}, {frozen} frozen" if frozen else made_up)
    out.print(facts)


def show_rejections(out: Console, batch: Batch, *, verbose: bool) -> None:
    """What of the file is not paid, and what is odd about the file."""
    rejected = [(r.line, r.end_to_end_id or "", r.reason) for r in batch.rejected]
    findings = [(f.line, "", f.message) for f in batch.findings]
    for title, rows in (
        ("Rejected; the rest is paid", rejected),
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
def following(out: Console) -> Iterator[Callable[[Progress], None]]:
    """Gives what shows the progress: a bar on a terminal, a line now and then elsewhere."""
    heading(out, "Running", "the worker is a process of its own, killed with SIGKILL and restarted")
    if not out.is_terminal:
        yield _lines(out)
        return
    columns = (
        TextColumn("  "),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
        TextColumn("[dim]{task.fields[rate]:,.0f}/s[/]"),
        TextColumn("[yellow]{task.fields[kills]}[/]"),
    )
    with Bar(*columns, console=out, expand=True) as bar:
        task = bar.add_task("", total=1, rate=0, kills="")

        def show(progress: Progress) -> None:
            bar.update(
                task,
                total=progress.total,
                completed=progress.settled,
                rate=progress.settled / progress.seconds,
                kills=_count(progress.kills, "kill"),
            )

        yield show


def _lines(out: Console) -> Callable[[Progress], None]:
    shown = (-1, 0)

    def show(progress: Progress) -> None:
        nonlocal shown
        part = progress.settled * LINES_PER_RUN // progress.total
        if (part, progress.kills) == shown:
            return
        shown = (part, progress.kills)
        settled = f"{progress.settled:,} of {progress.total:,} settled"
        out.print(f"  {settled}, {_count(progress.kills, 'kill')}, {progress.seconds:.1f} s")

    return show


def show_tally(out: Console, made: Tally, progress: Progress) -> None:
    """How the payments ended, and what that took."""
    heading(out, "What became of them")
    facts = _grid(number=True)
    facts.add_row(f"{made.completed:,}", "completed", "")
    for counts, word, more in (
        (made.compensated, "compensated", "what was withdrawn is given back"),
        (made.failed, "failed", "there was nothing to undo"),
        (made.other, "ended otherwise", ""),
    ):
        if counts:
            facts.add_row(f"{counts.total():,}", word, Text(more, style="dim"))
            for reason, count in counts.most_common():
                facts.add_row("", f"  {count:,} {printable(reason)}", "")
    if made.resolved:
        parked = "of these parked, and resolved by a person (here: by the demo)"
        facts.add_row(
            f"{made.resolved.total():,}", "completed in the end", Text(parked, style="dim")
        )
    out.print(facts)
    heading(out, "What it took")
    took = _grid(number=True)
    for number, what, more in (
        (progress.kills, "kills survived", ""),
        (made.attempts, "attempts", "runs of an activity"),
        (made.repeated, "run twice", "because a kill came before the report"),
        (made.timeouts, "without an answer", "timed out, or lost with the worker"),
        (made.retries, "retries", ""),
        (made.probes, "probes", "asked whether a deposit that gave no answer had happened"),
        (made.undos, "undos", ""),
    ):
        took.add_row(f"{number:,}", what, Text(more, style="dim"))
    rate = f"{progress.total / progress.seconds:,.0f} payments/s, kills and restarts included"
    took.add_row(f"{progress.seconds:.1f}", "seconds", Text(rate, style="dim"))
    out.print(took)


def show_claims(out: Console, claims: Sequence[Claim]) -> None:
    """The proof: every claim with a check or a cross, and what contradicts it."""
    heading(out, "The proof", "computed from the events alone, with none of the engine's code")
    yes, no = ("true ", "FALSE") if out.options.ascii_only else ("✓", "✗")
    for claim in claims:
        mark = (yes, "bold green") if claim.holds else (no, "bold red")
        out.print(Text.assemble("  ", mark, f" {claim.title}"), end="")
        out.print(Text(f": {claim.detail}", style="dim") if claim.holds else "")
        for fault in claim.faults[:FAULTS_MAX]:
            out.print(Text(f"      {printable(fault)}", style="red"))
        if len(claim.faults) > FAULTS_MAX:
            out.print(Text(f"      and {len(claim.faults) - FAULTS_MAX:,} more", style="red"))


def show_commands(out: Console, commands: Sequence[tuple[str, str]]) -> None:
    """What to type next: each command on a line of its own, to be copied."""
    heading(out, "Look for yourself")
    for command, what in commands:
        out.print(Text(f"  # {what}", style="dim"), soft_wrap=True)
        out.print(Text(f"  {command}"), soft_wrap=True)


def _grid(*, number: bool = False) -> Table:
    made = Table.grid(padding=(0, 2, 0, 0))
    if number:
        made.add_column(justify="right", min_width=8, no_wrap=True, style="bold")
        made.add_column(no_wrap=True)
    else:
        made.add_column(min_width=10, style="dim")
    made.add_column(overflow="fold")
    return made


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
