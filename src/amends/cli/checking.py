"""`amends replay` and `amends reconcile`: does today's code agree with the journals, and does
the broker have all that the journals ask for?
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, NamedTuple

import typer
from rich.text import Text

from amends.app import App
from amends.cli.appload import load_app
from amends.cli.exits import Exit, Stop
from amends.cli.opening import acting, looking, run
from amends.cli.options import AppName, Db, Json, parse_instance
from amends.cli.output import busy, clean, emit, note, show
from amends.client import Client
from amends.domain.envelope import RecordedEvent
from amends.domain.events import OutputEvent
from amends.domain.ids import InstanceId
from amends.errors import AmendsError, InstanceNotFound
from amends.projections.sagas import newest_first
from amends.sagas import journal
from amends.sagas.execution import SagaBug
from amends.sagas.outside import outside_tasks
from amends.sagas.reconcile import reconcile as reconcile_all
from amends.sagas.replay import describe, fold
from amends.sagas.replay import replay as replay_journal

router = typer.Typer()


class Verdict(NamedTuple):
    """What a replay of one instance came to. `fault` is empty when code and journal agree."""

    instance: InstanceId
    events: int
    decisions: int
    fault: str = ""
    note: str = ""


@router.command()
def replay(
    app: AppName,
    id: Annotated[
        str | None, typer.Argument(metavar="ID", help="The saga instance: saga/id.")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Every instance of the store.")] = False,
    saga: Annotated[str | None, typer.Option(help="With --all: only this saga's.")] = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Check today's code against recorded journals, before it is deployed.

    Nothing is run but the saga's own code, and nothing is written. An instance agrees when the
    code takes the decisions that are on record, and no others.
    """
    if (id is None) != (all or saga is not None):
        raise typer.BadParameter("name one instance, or say --all or --saga")
    application = load_app(app)
    wanted = None if id is None else parse_instance(id)
    faults, agreed = run(_replay_wanted(application, wanted, saga, db=db, json=json))
    if wanted is None and not json:
        note(f"{agreed} agree, {faults} do not")
    if faults:
        raise typer.Exit(Exit.FAILED)


async def _replay_wanted(
    app: App, wanted: InstanceId | None, saga: str | None, *, db: str | None, json: bool
) -> tuple[int, int]:
    faults = agreed = 0
    async with looking(db, app) as client:
        with busy("replaying"):
            async for instance in _instances(client, wanted, saga):
                try:
                    records = await client.journal(instance)
                except InstanceNotFound:
                    if wanted is not None:
                        raise
                    continue  # removed since it was listed
                verdict = await outside_tasks(lambda: judge(app, instance, records))  # noqa: B023
                faults += bool(verdict.fault)
                agreed += not verdict.fault
                if json or verdict.fault or wanted is not None:
                    _say(verdict, json=json)
    return faults, agreed


async def _instances(
    client: Client, wanted: InstanceId | None, saga: str | None
) -> AsyncIterator[InstanceId]:
    if wanted is not None:
        yield wanted
        return
    async for summary in newest_first(client.backend.store, saga=saga):
        yield summary.instance


def judge(app: App, instance: InstanceId, records: Sequence[RecordedEvent]) -> Verdict:
    """Replay one journal. Runs the saga's code."""
    events, decisions = len(records), 0
    try:
        state = fold(instance, records)
        decisions = sum(isinstance(journal.decode(record), OutputEvent) for record in records)
        definition = app.sagas.get(instance.saga)
        if definition is None:
            over = state.final is not None and not state.open_steps()
            missing = f"the application has no saga {instance.saga!r}"
            note = f"not checked: {missing}, but the instance is over" if over else ""
            return Verdict(instance, events, decisions, "" if over else missing, note)
        execution = replay_journal(definition, instance, records, app.activities)
        try:
            wants = [describe(decision) for decision in execution.decisions]
        finally:
            execution.discard()
    except SagaBug as bug:
        return Verdict(instance, events, decisions, f"{type(bug.cause).__name__}: {bug.cause}")
    except AmendsError as error:
        return Verdict(instance, events, decisions, str(error))
    if not wants:
        return Verdict(instance, events, decisions)
    where = "stalled" if state.stalled is not None else "in the middle of a turn"
    return Verdict(instance, events, decisions, note=f"{where}; would go on with {wants[0]}")


def _say(verdict: Verdict, *, json: bool) -> None:
    if json:
        emit(
            {
                "instance": str(verdict.instance),
                "ok": not verdict.fault,
                "events": verdict.events,
                "decisions": verdict.decisions,
                "fault": verdict.fault or None,
                "note": verdict.note or None,
            }
        )
        return
    if verdict.fault:
        line = Text.assemble(("MISMATCH", "bold red"), f" {verdict.instance}\n  ")
        show(line.append(clean(verdict.fault)))
        return
    counts = f"{verdict.events} events, {verdict.decisions} decisions confirmed"
    line = Text.assemble(("OK", "green"), f" {verdict.instance}  {counts}")
    show(line.append(f"\n  {verdict.note}") if verdict.note else line)


@router.command()
def reconcile(db: Db = None, json: Json = False) -> None:
    """Set every open saga going again, from the event store alone.

    For after a loss of messages. Safe to repeat, and beside a running engine: whatever is
    published twice is recognised. An activity that is just running may run once more.
    """

    async def work() -> Any:
        async with acting(db) as client:
            backend, settings = client.backend, client.settings
            with busy("reconciling"):
                return await reconcile_all(
                    backend.store, backend.broker, partitions=settings.partitions
                )

    done = run(work())
    if json:
        emit(done._asdict())
    else:
        note(
            f"{done.instances:,} instances, {done.waiting:,} of them waiting: "
            f"{done.messages:,} messages published"
        )
    if done.unreadable:
        raise Stop(f"{done.unreadable:,} journals cannot be read; nothing was published for them")
