"""What a person can do about an instance: the end of `amends show`. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from shlex import quote
from typing import Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from amends.cli.output import clean
from amends.cli.render import STYLES, span, stamp
from amends.domain.events import StepKind
from amends.domain.status import Status
from amends.projections.sagas import OpenStep, SagaSummary

#: A step that nobody reported on for so long may have nobody who runs it.
QUIET: Final = timedelta(minutes=5)


def hints_for(summary: SagaSummary, now: datetime) -> Iterator[RenderableType]:
    """Blocks of text that say what the instance waits for, and what to do."""
    if summary.fault is not None:
        return
    match summary.state:
        case Status.PARKED:
            for step in summary.parked:
                yield from _parked(summary, step)
        case Status.STALLED:
            yield from _stalled(summary)
        case Status.TERMINATED:
            yield _title(Status.TERMINATED, "What it did before stays done: nothing was undone.")
        case Status.RUNNING | Status.COMPENSATING:
            yield from _waiting(summary, now)


def _parked(summary: SagaSummary, step: OpenStep) -> Iterator[RenderableType]:
    is_undo = step.kind is StepKind.UNDO
    done, result = ("undone", "") if is_undo else ("done", " --result JSON --app APP")
    error = "" if step.error is None else f": {step.error.type}: {step.error.message}"
    yield _title(Status.PARKED, f"step {step.seq} ({step.activity}) waits for you{error}")
    resolve = f"amends resolve {quote(str(summary.instance))}"
    only = "" if len(summary.parked) == 1 else f" --step {step.seq}"
    if step.told:
        # The saga went on without it; only its effect is left to see to.
        yield _commands(
            (f"{resolve} skip{only} --why …", "it did not happen, or you saw to it: leave it so"),
            (
                f"{resolve} complete{only}{result} --why …",
                "it happened: run its undo, if it has one",
            ),
        )
        return
    skipped = "leave the effect as it is" if is_undo else "go on as if it had not been done"
    yield _commands(
        (f"{resolve} retry{only} --why …", "try again, with attempts anew"),
        (f"{resolve} complete{only}{result} --why …", f"you saw to it by hand: it is {done}"),
        (f"{resolve} skip{only} --why …", skipped),
    )


def _stalled(summary: SagaSummary) -> Iterator[RenderableType]:
    yield _title(
        Status.STALLED,
        "the code is wrong, not the business: nothing was undone, and nothing is lost. It is "
        "tried again from time to time, and goes on by itself once fixed code runs.",
    )
    instance = quote(str(summary.instance))
    yield _commands(
        (f"amends show {instance} --full", "the traceback"),
        (f"amends replay APP {instance}", "check code against the journal"),
    )


def _waiting(summary: SagaSummary, now: datetime) -> Iterator[RenderableType]:
    step = summary.step
    if step is not None and step.retry_at is not None:
        when = f"in {span(step.retry_at - now)}" if step.retry_at > now else "due"
        what = f"attempt {step.attempt} of step {step.seq} ({step.activity}) is {when}"
        yield Text(f"\nwaits: {what}, at {stamp(step.retry_at)} UTC", style="dim")
    elif step is not None:
        yield Text(f"\nwaits: step {step.seq} ({step.activity}) is to report", style="dim")
        if now - summary.updated_at > QUIET:
            yield Text("is an engine running, and are its queues? amends status", style="dim")
    elif summary.next_timer is not None:
        yield Text(f"\nwaits: a timer, until {stamp(summary.next_timer)} UTC", style="dim")
    else:
        yield Text("\nwaits: a signal, or a condition of its own", style="dim")


def _title(state: Status, text: str) -> Text:
    return Text.assemble("\n", (str(state), STYLES[state]), f"  {clean(text)}")


def _commands(*rows: tuple[str, str]) -> Table:
    """Commands to copy, each with what it does above it: a long id must not break them apart."""
    made = Table.grid(padding=(0, 2))
    made.add_column(overflow="fold")
    for command, what in rows:
        made.add_row(Text.assemble((f"  {what}:\n", "dim"), f"    {command}"))
    return made
