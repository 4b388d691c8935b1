"""`amends start`: begin a saga, and wait for its end if asked to."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import uuid4

import typer
from pydantic import TypeAdapter, ValidationError
from rich.text import Text

from amends.app import App
from amends.cli.appload import load_app
from amends.cli.exits import Exit, Stop
from amends.cli.opening import run, starting
from amends.cli.options import AppName, Db, Json, parse_json
from amends.cli.output import busy, clean, emit, note, show
from amends.cli.render import compact, state_text
from amends.client import Client, Handle
from amends.domain.events import SagaStalled, StepParked, StepUnknown
from amends.domain.ids import InstanceId, check_id
from amends.domain.status import Ending, Status
from amends.errors import InvalidPayload, StartUnconfirmed, UsageError
from amends.projections.sagas import summarise
from amends.sagas.definition import Saga
from amends.stores.port import EventFilter

router = typer.Typer()

_TROUBLE: Final = tuple(kind.__name__ for kind in (SagaStalled, StepParked, StepUnknown))


@router.command()
def start(
    app: AppName,
    saga: Annotated[str, typer.Argument(metavar="SAGA", help="The saga's name.")],
    input: Annotated[
        str | None,
        typer.Argument(metavar="INPUT", help="JSON, @file with JSON, or - for stdin."),
    ] = None,
    id: Annotated[
        str | None,
        typer.Option("--id", help="The instance's id. Starting it again is safe. Default: random."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end.")] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds to --wait; the saga goes on after.")
    ] = None,
    confirm: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for an engine to take it up.")
    ] = 5.0,
    db: Db = None,
    json: Json = False,
) -> None:
    """Start a saga.

    It is durable when this returns, whether or not an engine is running.
    """
    application = load_app(app)
    definition = find_saga(application, saga)
    value = read_input(definition, input)
    if id is not None:
        _check_id(id)
    run(
        _start(
            application, definition, value, id or str(uuid4()),
            db=db, confirm_s=confirm, wait=wait, timeout_s=timeout, json=json,
        )
    )  # fmt: skip


async def _start(
    app: App, saga: Saga[Any, Any], value: Any, id: str, *,
    db: str | None, confirm_s: float, wait: bool, timeout_s: float | None, json: bool,
) -> None:  # fmt: skip
    async with starting(db, app) as client:
        handle = client.handle(saga, id)
        confirmed = True
        try:
            with busy("waiting for an engine to take it up"):
                await client.start(saga, value, id=id, confirm_timeout=confirm_s)
        except StartUnconfirmed:
            confirmed = False
            note(
                f"{handle.instance} is durable, but no engine took it up within {confirm_s:g} s: "
                "it starts when one runs (amends dev). Starting it again is safe"
            )
        if not wait:
            _say_started(handle, confirmed=confirmed, json=json)
            return
        note(f"waiting for {handle.instance}")
        ending = await _wait(client, handle, timeout_s)
    _say_ended(handle, ending, json=json)
    if ending.status is not Status.COMPLETED:
        raise typer.Exit(Exit.NOT_COMPLETED)


async def _wait(client: Client, handle: Handle[Any], timeout_s: float | None) -> Ending:
    telling = asyncio.create_task(_tell_of_trouble(client, handle.instance))
    try:
        with busy(f"waiting for {handle.instance} to end"):
            return await client.wait_for_end(handle.instance, timeout_s)
    except TimeoutError:
        raise Stop(
            f"{handle.instance} did not end within {timeout_s:g} s. It goes on; look at it with: "
            f"amends show {handle.instance}",
            Exit.NOT_COMPLETED,
        ) from None
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def _tell_of_trouble(client: Client, instance: InstanceId) -> None:
    """Say so when the instance begins to wait for somebody: it may never end by itself."""
    store = client.backend.store
    trouble = store.subscribe(await store.end(), filter=EventFilter((instance.stream,), _TROUBLE))
    while True:
        summary = await summarise(store, instance)
        if summary.state in (Status.PARKED, Status.STALLED):
            error = "" if summary.error is None else f": {summary.error.message}"
            note(f"{instance} is {summary.state}{error}. See: amends show {instance}")
        while (await anext(trouble)).stream != instance.stream:
            pass  # another instance, whose id begins the same


def _say_started(handle: Handle[Any], *, confirmed: bool, json: bool) -> None:
    instance = handle.instance
    if json:
        emit(
            {
                "instance": str(instance),
                "saga": instance.saga,
                "id": instance.id,
                "confirmed": confirmed,
            }
        )
    else:
        show(Text(str(instance)), whole_lines=True)


def _say_ended(handle: Handle[Any], ending: Ending, *, json: bool) -> None:
    instance = handle.instance
    error = ending.error
    if json:
        emit(
            {
                "instance": str(instance),
                "saga": instance.saga,
                "id": instance.id,
                "confirmed": True,
                "state": str(ending.status),
                "result": ending.result,
                "error": None if error is None else error.model_dump(mode="json"),
            }
        )
        return
    line = Text.assemble(str(instance), "  ", state_text(ending.status))
    if ending.status is Status.COMPLETED:
        line.append(f"  {compact(ending.result)}")
    elif error is not None:
        line.append(clean(f"  {error.type}: {error.message}"))
    show(line, whole_lines=True)


# --- the arguments


def find_saga(app: App, name: str) -> Saga[Any, Any]:
    """The saga of a name. Raises Stop, which says what there is."""
    saga = app.sagas.get(name)
    if saga is None:
        known = ", ".join(sorted(app.sagas)) or "none"
        raise Stop(f"the application has no saga {name!r}; it has: {known}", Exit.USAGE)
    return saga


def _check_id(id: str) -> None:
    try:
        check_id(id)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None


def read_input(saga: Saga[Any, Any], given: str | None) -> Any:
    """The saga's input, from JSON. Raises BadParameter, or Stop with the path of each fault."""
    text = "null" if given is None else _text_of(given)
    raw = parse_json(text, "INPUT")
    try:
        return saga.input.from_json_value(raw)
    except InvalidPayload as error:
        faults = _faults(saga, text) or [str(error)]
    wanted = ", ".join(_fields(saga))
    told = f"\n{saga.name} takes: {wanted}" if wanted else ""
    if given is None:
        raise Stop(f"saga {saga.name!r} needs an INPUT.{told}", Exit.USAGE)
    lines = "".join(f"\n  {fault}" for fault in faults)
    raise Stop(
        f"INPUT does not fit saga {saga.name!r}; nothing was started:{lines}{told}", Exit.USAGE
    )


def _text_of(given: str) -> str:
    try:
        if given == "-":
            return sys.stdin.read()
        return Path(given[1:]).read_text() if given.startswith("@") else given
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"INPUT cannot be read: {error}") from None


def _faults(saga: Saga[Any, Any], text: str) -> list[str]:
    """What is wrong with the input, each with its place."""
    types = saga.signature.parameter_types
    adapter = TypeAdapter(types[1] if len(types) > 1 else type(None))
    try:
        adapter.validate_json(text)
    except ValidationError as error:
        return [
            f"{'.'.join(map(str, fault['loc'])) or 'the whole'}: {fault['msg']}"
            for fault in error.errors(include_url=False)
        ]
    return []


def _fields(saga: Saga[Any, Any]) -> list[str]:
    """The names of the input's fields; optional ones with a question mark."""
    schema = saga.input.json_schema()
    required = schema.get("required", ())
    return [name + ("" if name in required else "?") for name in schema.get("properties", ())]
