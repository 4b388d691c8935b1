"""`amends dead`: messages that nobody could handle, until somebody decides about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from pydantic_core import from_json
from rich.table import Table
from rich.text import Text

from amends.broker.port import Broker, DeadLetter
from amends.cli.exits import Exit, Stop
from amends.cli.opening import acting, looking, run
from amends.cli.options import Db, Json, Yes
from amends.cli.output import clean, emit, note, show
from amends.cli.render import compact, stamp, table

router = typer.Typer(
    name="dead", help="Messages that were put aside for a person.", no_args_is_help=True
)

#: Dead letters that one command looks at.
LETTERS_MAX: Final = 10_000
#: Characters of an id that a list shows; enough to name one.
ID_CHARS: Final = 8

Queue = Annotated[str | None, typer.Option(metavar="QUEUE", help="Only of this queue.")]
Reason = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Only with this text in the reason.")
]
Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID...", help="Their ids, or how they begin.", show_default=False),
]
All = Annotated[bool, typer.Option("--all", help="All of them, or all that fit.")]


@router.command("list")
def list_(
    queue: Queue = None,
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=1, max=LETTERS_MAX, help="At most so many.")] = 50,
    db: Db = None,
    json: Json = False,
) -> None:
    """List dead letters, oldest first."""

    async def read() -> list[DeadLetter]:
        async with looking(db) as client:
            return await _fitting(client.backend.broker, queue, reason)

    letters = run(read())
    if json:
        for letter in letters[:limit]:
            emit(_letter_json(letter))
    elif letters:
        show(_table(letters[:limit]))
        if len(letters) > limit:
            note(f"the oldest {limit} of {_count(letters)}; --limit shows more")
    else:
        note("no dead letters")


@router.command("show")
def show_(
    id: Annotated[str, typer.Argument(metavar="ID", help="Its id, or how it begins.")],
    db: Db = None,
    json: Json = False,
) -> None:
    """Show a dead letter whole."""

    async def read() -> DeadLetter:
        async with looking(db) as client:
            return (await _chosen(client.backend.broker, [id]))[0]

    letter = run(read())
    if json:
        emit(_letter_json(letter))
    else:
        show(_whole(letter))


@router.command()
def redrive(
    ids: Ids = None,
    all: All = False,
    queue: Queue = None,
    reason: Reason = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Put dead letters back into the queues they came from."""
    _check_choice(ids, all, queue, reason)

    async def work() -> int:
        async with acting(db) as client:
            letters = await _select(client.backend.broker, ids, queue, reason)
            return await client.backend.broker.redrive([letter.message.id for letter in letters])

    _done("redriven", run(work()), json=json)


@router.command()
def discard(
    ids: Ids = None,
    all: All = False,
    queue: Queue = None,
    reason: Reason = None,
    yes: Yes = False,
    db: Db = None,
    json: Json = False,
) -> None:
    """Delete dead letters for good."""
    _check_choice(ids, all, queue, reason)

    async def choose() -> list[DeadLetter]:
        async with looking(db) as client:
            return await _select(client.backend.broker, ids, queue, reason)

    async def work(letters: Sequence[DeadLetter]) -> int:
        async with acting(db) as client:
            return await client.backend.broker.discard([letter.message.id for letter in letters])

    letters = run(choose())
    if letters and not yes:
        typer.confirm(f"Delete {_count(letters)} for good?", abort=True, err=True)
    _done("discarded", run(work(letters)) if letters else 0, json=json)


def _done(what: str, count: int, *, json: bool) -> None:
    if json:
        emit({what: count})
    else:
        note(f"{count} {what}")
        if count >= LETTERS_MAX:
            note("there may be more: run it again")


# --- choosing


def _check_choice(ids: list[str] | None, all: bool, queue: str | None, reason: str | None) -> None:
    if bool(ids) == (all or queue is not None or reason is not None):
        raise typer.BadParameter("name dead letters by their ids, or say --all, --queue, --reason")


async def _select(
    broker: Broker, ids: list[str] | None, queue: str | None, reason: str | None
) -> list[DeadLetter]:
    if ids:
        return await _chosen(broker, ids)
    return await _fitting(broker, queue, reason)


async def _fitting(broker: Broker, queue: str | None, reason: str | None) -> list[DeadLetter]:
    letters = await broker.dead_letters(queue=queue, limit=LETTERS_MAX)
    return [letter for letter in letters if reason is None or reason in letter.reason]


async def _chosen(broker: Broker, ids: Sequence[str]) -> list[DeadLetter]:
    """The letters of ids, which may be cut short. Raises Stop unless each names one."""
    letters = await broker.dead_letters(limit=LETTERS_MAX)
    chosen = []
    for id in ids:
        found = [letter for letter in letters if str(letter.message.id).startswith(id.lower())]
        if not found:
            raise Stop(f"there is no dead letter {id}; see: amends dead list", Exit.NOT_FOUND)
        if len({letter.message.id for letter in found}) > 1:
            raise Stop(f"{id} is the beginning of {len(found)} ids; write more of it", Exit.USAGE)
        chosen.append(found[0])
    return chosen


# --- showing


def _count(letters: Sequence[DeadLetter]) -> str:
    return f"{len(letters):,} dead letter{'' if len(letters) == 1 else 's'}"


def _table(letters: Sequence[DeadLetter]) -> Table:
    made = table("id", "queue", "about", "reason", "died (UTC)")
    for column in (0, 4):
        made.columns[column].no_wrap = True
    for letter in letters:
        message = letter.message
        made.add_row(
            str(message.id)[:ID_CHARS],
            Text(message.queue),
            Text(clean(f"{message.type} {message.key}")),
            Text(clean(letter.reason)),
            stamp(letter.died_at),
        )
    return made


def _whole(letter: DeadLetter) -> Table:
    message = letter.message
    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim")
    made.add_column(overflow="fold")
    for label, text in (
        ("id", str(message.id)),
        ("queue", message.queue),
        ("message", message.type),
        ("about", message.key),
        ("reason", letter.reason),
        ("died", f"{stamp(letter.died_at)} UTC, after {letter.deliveries} deliveries"),
        ("correlation", message.correlation_id),
        ("causation", message.causation_id),
        ("body", compact(_body(message.body))),
        ("detail", letter.detail),
    ):
        made.add_row(label, Text(clean(text)))
    return made


def _letter_json(letter: DeadLetter) -> dict[str, Any]:
    message = letter.message
    return {
        "id": str(message.id),
        "queue": message.queue,
        "type": message.type,
        "key": message.key,
        "reason": letter.reason,
        "detail": letter.detail,
        "died_at": letter.died_at,
        "deliveries": letter.deliveries,
        "correlation_id": message.correlation_id,
        "causation_id": message.causation_id,
        "body": _body(message.body),
    }


def _body(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError:
        return body.decode(errors="replace")
