"""`amends audit`: that nobody has changed the log, and how others can see that for themselves."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from amends.cli.exits import Exit, Stop
from amends.cli.opening import looking, run
from amends.cli.options import Db, Json, parse_instance
from amends.cli.output import busy, clean, emit, note, show, warn
from amends.cli.render import stamp, table
from amends.client import Client
from amends.domain.ids import InstanceId, StreamName
from amends.settings import Settings

if TYPE_CHECKING:  # what they need is imported by the command that needs it
    from amends.projections.audit.bundle import Bundle
    from amends.projections.audit.check import Checked
    from amends.projections.audit.checkpoints import Checkpoint
    from amends.projections.audit.keys import PublicKey, SigningKey
    from amends.projections.audit.verify import Difference, Verified

#: A part of `amends audit`.
verbs = typer.Typer()

Keys = Annotated[
    list[Path] | None,
    typer.Option(
        "--key",
        metavar="PUBLIC.pem",
        help="A public key to trust; again for more. Default: that of AMENDS_AUDIT_KEY_FILE.",
        show_default=False,
    ),
]


@verbs.command()
def keygen(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the private key goes.")],
    json: Json = False,
) -> None:
    """Make a pair of keys: FILE signs, and stays with the engine; FILE's .pub.pem is for everybody.

    No file is overwritten.
    """
    from amends.projections.audit.keys import SigningKey  # noqa: PLC0415

    public = file.with_name(f"{file.name.removesuffix('.pem')}.pub.pem")
    key = SigningKey.new()
    key.save(file, public)
    if json:
        emit({"private": str(file), "public": str(public), "key": key.public.id})
        return
    note(f"private key: {file} (keep it; only its owner can read it)")
    note(f"public key:  {public} (hand it out), id {key.public.id}")
    note(f"engines sign with it when they have AMENDS_AUDIT_KEY_FILE={file}")


@verbs.command()
def verify(
    key: Keys = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Published checkpoints, which the chain must go through; again for more.",
        ),
    ] = None,
    db: Db = None,
    json: Json = False,
) -> None:
    """Compute the chain anew from the log, and name the first difference: exit code 1 if there is one."""
    from amends.projections.audit.bundle import load_checkpoints  # noqa: PLC0415

    keys = _trusted(key)
    published = [one for path in checkpoint or () for one in load_checkpoints(path)]
    began = time.perf_counter()
    verified = run(_verify(db, keys, published))
    seconds = time.perf_counter() - began
    if json:
        emit(_verified_json(verified, seconds))
    else:
        _show_verified(verified, seconds)
    if verified.difference is not None:
        raise Stop(_difference(verified.difference))


@verbs.command()
def checkpoints(
    after: Annotated[int, typer.Option(min=0, metavar="N", help="Only those behind record N.")] = 0,
    now: Annotated[
        bool, typer.Option("--now", help="Sign the chain's last record, too; that takes the key.")
    ] = False,
    db: Db = None,
    json: Json = False,
) -> None:
    """Show the signed checkpoints. With --json: to be published, where nobody here can change them."""
    found = run(_checkpoints(db, after, now=now))
    if json:
        for one in found:
            emit(one.json)
        return
    made = table("record", "position", "at (UTC)", "hash", "key", right=("record", "position"))
    for one in found:
        at = one.at[:19].replace("T", " ")
        made.add_row(f"{one.n:,}", f"{one.position:,}", at, one.hash.hex()[:16], one.key[:8])
    show(made)


@verbs.command()
def export(
    saga: Annotated[
        str | None, typer.Option(metavar="ID", help="A saga instance: saga/id.")
    ] = None,
    stream: Annotated[
        str | None, typer.Option(metavar="NAME", help="Or any stream: an aggregate's, say.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The bundle; the page goes beside it, as .html."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files.")] = False,
    db: Db = None,
    json: Json = False,
) -> None:
    """Write a bundle for an auditor: the events of one instance, and what proves them.

    Of other instances, nothing is in it but hashes. `amends audit check` checks it anywhere.
    """
    name = _stream(saga, stream)
    path = Path(_file_name(name)) if out is None else out
    page_path = path.with_suffix(".html")
    if path.suffix == ".html":
        raise typer.BadParameter(f"{path} is the name of the page; name the bundle FILE.json")
    for one in (path, page_path):
        if one.exists() and not force:
            raise Stop(f"{one} is there already. Nothing was written. --force overwrites it")
    bundle = run(_export(db, name))
    _write(bundle, path, page_path)
    records = sum(len(segment.records) for segment in bundle.segments)
    if json:
        emit({"bundle": str(path), "page": str(page_path), "events": len(bundle.events),
              "records": records, "segments": len(bundle.segments)})  # fmt: skip
        return
    note(f"{path}: {len(bundle.events):,} events, in {records:,} records of the chain")
    note(f"{page_path}: the same, to be read and printed")


@verbs.command()
def check(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's file.")],
    key: Annotated[
        list[Path],
        typer.Option(metavar="PUBLIC.pem", help="A public key that you trust; again for more."),
    ],
    json: Json = False,
) -> None:
    """Check a bundle offline, and name the first thing that is wrong: exit code 1 if there is one."""
    from amends.projections.audit.bundle import load  # noqa: PLC0415
    from amends.projections.audit.check import check as check_bundle  # noqa: PLC0415

    keys = _public(key)
    given = load(bundle)
    checked = check_bundle(given, keys)
    if json:
        emit({"stream": given.stream, "ok": checked.fault is None, **checked._asdict()})
    if checked.fault is not None:
        raise Stop(f"{bundle} proves nothing: {checked.fault}")
    if not json:
        _show_checked(given, checked)


# --- what they do


@asynccontextmanager
async def _auditing(db: str | None) -> AsyncIterator[Client]:
    async with looking(db) as client:
        file = client.projections.database.file
        if file is not None and not file.exists():  # looking makes no file
            raise Stop(
                f"there is no audit trail: {file} does not exist. An engine keeps one when it has "
                "AMENDS_AUDIT_KEY_FILE",
                Exit.NOT_FOUND,
            )
        yield client


async def _verify(
    db: str | None, keys: dict[str, PublicKey], published: Sequence[Checkpoint]
) -> Verified:
    from amends.projections.audit.verify import verify as verify_trail  # noqa: PLC0415

    async with _auditing(db) as client:
        with busy("reading the log"):
            database = client.projections.database
            return await verify_trail(client.backend.store, database, keys, published)


async def _checkpoints(db: str | None, after: int, *, now: bool) -> list[Checkpoint]:
    from amends.projections.audit.export import signed_now  # noqa: PLC0415
    from amends.projections.audit.recorded import all_checkpoints  # noqa: PLC0415

    async with _auditing(db) as client:
        database = client.projections.database
        found = await all_checkpoints(database, after=after)
        if now:
            key = _own_key()
            if key is None:
                raise Stop("--now signs: AMENDS_AUDIT_KEY_FILE says with which key", Exit.USAGE)
            head = await signed_now(database, key)
            if head is not None and head.n > max(after, *(one.n for one in found), 0):
                found.append(head)
        return found


async def _export(db: str | None, stream: StreamName) -> Bundle:
    from amends.projections.audit.export import export as make_bundle  # noqa: PLC0415

    key = _own_key()
    async with _auditing(db) as client:
        return await make_bundle(
            client.backend.store, client.projections.database, stream,
            key=key, now=client.backend.clock.now(), made_by=f"amends {version('amends')}",
        )  # fmt: skip


def _stream(saga: str | None, stream: str | None) -> StreamName:
    if (saga is None) == (stream is None):
        raise typer.BadParameter("say which: --saga saga/id, or --stream NAME")
    return parse_instance(saga).stream if saga is not None else StreamName(str(stream))


def _file_name(stream: StreamName) -> str:
    return f"audit-{re.sub(r'[^A-Za-z0-9._-]', '_', stream.removeprefix('saga.'))[:150]}.json"


def _write(bundle: Bundle, path: Path, page_path: Path) -> None:
    from amends.projections.audit.page import page  # noqa: PLC0415

    data = bundle.write()
    try:
        path.write_bytes(data)
        page_path.write_text(page(bundle, path.name, data), encoding="utf-8")
    except OSError as error:
        raise Stop(f"{error.filename} cannot be written: {error.strerror}") from None


# --- keys


def _own_key() -> SigningKey | None:
    from amends.projections.audit.keys import SigningKey  # noqa: PLC0415

    file = Settings().audit_key_file
    return None if file is None else SigningKey.load(file)


def _trusted(files: Sequence[Path] | None) -> dict[str, PublicKey]:
    keys = _public(files or ())
    if not keys:
        own = _own_key()
        if own is None:
            raise Stop(
                "with which key are the checkpoints to be checked? Name it with --key PUBLIC.pem, or "
                "the engine's own with AMENDS_AUDIT_KEY_FILE. Nothing was verified",
                Exit.USAGE,
            )
        keys = {own.public.id: own.public}
    return keys


def _public(files: Sequence[Path]) -> dict[str, PublicKey]:
    from amends.projections.audit.keys import PublicKey  # noqa: PLC0415

    keys = [PublicKey.load(file) for file in files]
    return {key.id: key for key in keys}


# --- showing


def _show_verified(verified: Verified, seconds: float) -> None:
    rate = verified.records / max(seconds, 1e-9)
    if verified.difference is None:
        show(Text("the log is what was recorded", style="bold green"))
    at = (
        ""
        if verified.at is None
        else f", up to position {verified.position} ({stamp(verified.at)} UTC)"
    )
    show(f"{verified.events:,} events, {verified.records:,} records{at}; {rate:,.0f}/s")
    loose = verified.records - verified.signed
    show(
        f"{verified.checkpoints:,} checkpoints, signed up to record {verified.signed:,}"
        + (f"; {loose:,} after it chained, and not signed yet" if loose else "")
    )
    removed = verified.removed
    if removed.last is not None:
        warn(
            f"removed, as is on record: {removed.events:,} events of {removed.streams:,} streams, the "
            f"last of them at position {removed.last.position} ({stamp(removed.last.recorded_at)} UTC)"
        )
    if verified.behind:
        note("the log goes on: what came since is not in the chain yet")
    show(Text(f"hash {verified.hash}", style="dim"))


def _difference(difference: Difference) -> str:
    what = ""
    if difference.stream is not None:
        what = f", {difference.type} in {difference.stream}"
    return (
        f"the log or the chain was changed. The first difference is at position {difference.position} "
        f"(record {difference.n}){what}: {difference.what}. Up to there, log and chain "
        "agree. Copy the files as they are before anything else"
    )


def _verified_json(verified: Verified, seconds: float) -> dict[str, Any]:
    removed, difference = verified.removed, verified.difference
    last = None if removed.last is None else removed.last.position
    return {
        **verified._asdict(),
        "ok": difference is None,
        "removed": {"events": removed.events, "streams": removed.streams, "last": last},
        "difference": None if difference is None else difference._asdict(),
        "seconds": round(seconds, 3),
    }


def _show_checked(bundle: Bundle, checked: Checked) -> None:
    name = InstanceId.of_stream(bundle.stream) or bundle.stream
    events = bundle.events
    show(Text("these events are what was recorded", style="bold green"))
    show(
        Text(
            clean(
                f"{name}: {checked.events:,} events, from {events[0].recorded_at} to {events[-1].recorded_at}, none missing between"
            )
        )
    )
    for segment in bundle.segments:
        one = segment.checkpoint
        show(
            Text(
                f"records {segment.first:,} to {one.n:,}: signed with {one.key}, hash {one.hash}",
                style="dim",
            )
        )
    note(
        "not proved: that nothing of it came later, and that no other chain was signed with this key. "
        "Compare the hashes with published checkpoints"
    )
