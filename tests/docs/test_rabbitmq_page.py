"""What the tables of docs/rabbitmq.md list is what the code has: settings, names, fields, events."""

from __future__ import annotations

import re
from pathlib import Path

from amends.activities.consumer import DELIVERIES_MAX
from amends.broker.port import Process, QueueDepth
from amends.broker.rabbitmq import topology
from amends.broker.rabbitmq.consumer import INBOX_PREFETCH_MAX
from amends.broker.rabbitmq.names import Names
from amends.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/rabbitmq.md").read_text()
SOURCE = ROOT / "src/amends"

#: Settings of the engine that mean something of their own here.
ALSO = {"partitions", "concurrency", "inbox_limit", "publish_timeout_s", "shutdown_grace_s"}


def table(heading: str, first: str) -> list[list[str]]:
    """The rows of the table under a heading whose first column is called so."""
    section = PAGE.split(f"\n{heading}\n", 1)[1]
    lines = section.split(f"\n| {first} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def words(text: str) -> list[str]:
    """What stands in code style."""
    return re.findall(r"`([^`]+)`", text)


def test_settings_are_there_with_their_defaults() -> None:
    given = Settings(broker="amqp://host/", _env_file=None)
    named = {}
    for variables, default, _ in table("## Settings", "variable"):
        for variable in words(variables):
            named[variable.removeprefix("AMENDS_").lower()] = words(default)
    assert named.keys() == ALSO | {name for name in Settings.model_fields if "broker" in name}
    told = {name: [] if value is None else [str(value)] for name, value in given if name in named}
    assert named == told | {"broker": [Settings.model_fields["broker"].default]}
    assert f"RabbitMQ sends {INBOX_PREFETCH_MAX} ahead" in PAGE


def expanded(text: str) -> set[str]:
    """`delay.00` … `delay.30` are all between; of `commands.ledger` … there may be more."""
    found = words(text)
    if len(found) == 2 and "…" in text:
        (stem, first), (_, last) = (name.rsplit(".", 1) for name in found)
        width = len(first)
        return {f"{stem}.{number:0{width}}" for number in range(int(first), int(last) + 1)}
    return set(found)


def test_what_is_declared_is_listed() -> None:
    names = Names("amends")
    parts = [*topology.base(names, 8), *topology.delays(names)]
    for queue in [*(f"inbox.{number}" for number in range(8)), "commands.ledger"]:
        parts += topology.parts_of(names, queue)
    for kind, heading in ((topology.Queue, "queue"), (topology.Exchange, "exchange")):
        declared = {part.name.removeprefix("amends.") for part in parts if isinstance(part, kind)}
        listed = [expanded(row[0]) for row in table("## What is declared", heading)]
        assert set().union(*listed) == declared
    types = {part.name: part.type for part in parts if isinstance(part, topology.Exchange)}
    for named, type, _ in table("## What is declared", "exchange"):
        for name in expanded(named):
            assert types[name if name == "amends" else f"amends.{name}"] == type
    assert f"put aside after {topology.COMMAND_DELIVERIES_MAX} deliveries" in PAGE
    assert f"the engine gives up after {DELIVERIES_MAX}" in PAGE


def test_what_is_watched_is_there() -> None:
    fields = {*QueueDepth._fields, *Process._fields, "states"}
    for looked_at, when in table("## Watching it", "look at"):
        named = words(looked_at) + [word for word in words(when) if "_" in word]
        for word in named:
            name = word.removesuffix("[]")
            assert name in fields | {"queues", "processes", "(dead letters)"} or name.endswith(".…")


def events(*paths: str) -> set[str]:
    """Those that are logged in these modules."""
    files = [file for path in paths for file in SOURCE.glob(path)]
    pattern = r"(?:log\.(?:info|warning|error)|\.failed)\(\s*\"(\w+)\""
    return {event for file in files for event in re.findall(pattern, file.read_text())}


def test_events_are_listed() -> None:
    listed = {word for row in table("## Watching it", "event") for word in words(row[0])}
    assert events("broker/rabbitmq/*.py", "broker/subscription.py") <= listed
    assert listed <= events("**/*.py")
