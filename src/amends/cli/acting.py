"""`amends signal`, `cancel`, `terminate`, `resolve`: telling an instance something."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from amends.cli.appload import load_app
from amends.cli.opening import acting, looking, run
from amends.cli.options import (
    Db,
    InstanceName,
    Json,
    Who,
    Yes,
    parse_instance,
    parse_json,
    who_or_login,
)
from amends.cli.output import emit, note, warn
from amends.domain.events import Resolution
from amends.domain.ids import InstanceId, check_name
from amends.errors import ActionRefused, UsageError

router = typer.Typer()

Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason, for the record.")]
_NO_REASON = "no reason given"


@router.command()
def signal(
    id: InstanceName,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The signal's name.")],
    payload: Annotated[
        str, typer.Argument(metavar="PAYLOAD", help="What it carries, as JSON.")
    ] = "null",
    db: Db = None,
    json: Json = False,
) -> None:
    """Send a signal to a saga."""
    instance = parse_instance(id)
    value = parse_json(payload, "PAYLOAD")
    try:
        check_name("signal", name)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None

    async def act() -> None:
        async with acting(db) as client:
            await client.handle(instance.saga, instance.id).signal(name, value)

    run(act())
    _sent(instance, "signal", f"signal {name} sent", json=json, name=name)


@router.command()
def cancel(
    id: InstanceName,
    why: Why = _NO_REASON,
    who: Who = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Ask for a saga to be cancelled: what it did will be undone."""
    instance = parse_instance(id)
    name = who_or_login(who)

    async def act() -> None:
        async with acting(db) as client:
            await client.handle(instance.saga, instance.id).cancel(who=name, why=why)

    run(act())
    _sent(instance, "cancel", "cancel requested, what it did will be undone", json=json, who=name)


@router.command()
def terminate(
    id: InstanceName,
    why: Why = _NO_REASON,
    who: Who = None,
    yes: Yes = False,
    db: Db = None,
    json: Json = False,
) -> None:
    """End a saga on the spot. NOTHING is undone.

    Use `amends cancel` to have undone what it did.
    """
    instance = parse_instance(id)
    name = who_or_login(who)
    if not yes:
        _confirm_terminate(instance, db)

    async def act() -> None:
        async with acting(db) as client:
            await client.handle(instance.saga, instance.id).terminate(who=name, why=why)

    run(act())
    warn(f"{instance}: NOTHING IS UNDONE. What it did before stays done.")
    _sent(instance, "terminate", "termination requested", json=json, who=name)


@router.command()
def resolve(
    id: InstanceName,
    resolution: Annotated[
        Resolution,
        typer.Argument(
            metavar="retry|skip|complete",
            help="retry: try again. skip: go on as if it was not done. complete: you saw to it.",
        ),
    ],
    why: Why,
    step: Annotated[
        int | None, typer.Option(min=1, help="Its number, when several steps are parked.")
    ] = None,
    result: Annotated[
        str | None, typer.Option(metavar="JSON", help="For complete: the step's result.")
    ] = None,
    who: Who = None,
    app: Annotated[
        str | None,
        typer.Option(
            metavar="APP", help="The application whose types --result must fit; not for an undo."
        ),
    ] = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Decide about a parked step. The decision goes on record with your name."""
    instance = parse_instance(id)
    name = who_or_login(who)
    if result is not None and resolution is not Resolution.COMPLETE:
        raise typer.BadParameter("--result goes with complete only")
    value = None if result is None else parse_json(result, "--result")
    application = None if app is None else load_app(app)

    async def act() -> None:
        async with acting(db, application) as client:
            await client.handle(instance.saga, instance.id).resolve(
                resolution, who=name, why=why, seq=step, result=value
            )

    run(act())
    _sent(
        instance, "resolve", f"{resolution} sent", json=json, who=name, resolution=str(resolution)
    )


def _confirm_terminate(instance: InstanceId, db: str | None) -> None:
    """Ask, but only about what can be terminated."""

    async def look() -> None:
        async with looking(db) as client:
            state = await client.state(instance)
            if state.final is not None:
                raise ActionRefused(
                    f"{instance} has ended {state.final}: there is nothing to terminate"
                )

    run(look())
    warn(
        f"{instance} will end where it stands. NOTHING is undone: what it did stays done, and "
        "you see to it by hand. `amends cancel` would undo it."
    )
    typer.confirm("Terminate it?", abort=True, err=True)


def _sent(instance: InstanceId, action: str, text: str, *, json: bool, **more: Any) -> None:
    if json:
        emit({"instance": str(instance), "action": action, "sent": True, **more})
    else:
        note(f"{instance}: {text} (durable; acted upon when an engine runs)")
