"""Everything of an application that has a schema, each under a key of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

from amends.app import App
from amends.domain.codec import EventName, event_name
from amends.domain.events import JOURNAL_EVENTS, StepKind
from amends.domain.messages import ENGINE_MESSAGES
from amends.errors import DefinitionError
from amends.schema.found import DomainEvent, domain_events


class Entry(NamedTuple):
    """One thing that has a schema. `versions` are there for domain events."""

    adapter: TypeAdapter[Any]
    title: str
    versions: EventName | None = None


class Catalog(NamedTuple):
    """The entries of an application by key, and who puts which domain events on record."""

    entries: Mapping[str, Entry]
    events: list[tuple[str, DomainEvent]]
    doubts: list[str]

    def schemas(
        self, template: str, generator: type[GenerateJsonSchema] = GenerateJsonSchema
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The schema of each entry, and the models that these refer to, by `template`.

        They describe what may be read: what has a default may be missing. Raises DefinitionError
        for a type that has no JSON Schema.
        """
        wanted: Any = [(key, "validation", entry.adapter) for key, entry in self.entries.items()]
        try:
            found, models = TypeAdapter.json_schemas(
                wanted, ref_template=template, schema_generator=generator
            )
        except PydanticUserError:
            self._blame()
            raise
        return {key: found[key, "validation"] for key in self.entries}, models.get("$defs", {})

    def _blame(self) -> None:
        """Raise DefinitionError for the first entry that has no schema."""
        for key, entry in self.entries.items():
            try:
                entry.adapter.json_schema()
            except PydanticUserError as error:
                raise DefinitionError(
                    f"{key} has no JSON Schema: {error.message}. Say what it looks like: "
                    "Annotated[…, pydantic.WithJsonSchema({…})]"
                ) from None


def catalog_of(app: App) -> Catalog:
    """What an application has."""
    found = domain_events(app)
    events = _keyed(found.events)
    entries: dict[str, Entry] = {}
    for cls in JOURNAL_EVENTS:
        entries[f"journal.{cls.__name__}"] = Entry(TypeAdapter(cls), cls.__name__)
    for key, event in events:
        entries[key] = Entry(TypeAdapter(event.cls), event.type, event_name(event.cls))
    for message in ENGINE_MESSAGES:
        entries[f"message.{message.__name__}"] = Entry(TypeAdapter(message), message.__name__)
    for activity in app.activities.values():
        kind = "activity" if activity.kind is StepKind.STEP else activity.kind
        key, title = f"activity.{activity.name}", f"{kind} {activity.name}"
        input = (activity.origin or activity).input
        entries[f"{key}.input"] = Entry(input.adapter, f"The input of {title}")
        if activity.kind is not StepKind.PROBE:  # whose answer is the engine's own
            entries[f"{key}.result"] = Entry(activity.result.adapter, f"The result of {title}")
    for saga in app.sagas.values():
        for what, payload in (("input", saga.input), ("result", saga.result)):
            title = f"The {what} of saga {saga.name}"
            entries[f"saga.{saga.name}.{what}"] = Entry(payload.adapter, title)
        for signal in saga.signals.values():
            title = f"The signal {signal.name} to saga {saga.name}"
            entries[f"signal.{saga.name}.{signal.name}"] = Entry(signal.payload.adapter, title)
    return Catalog(dict(sorted(entries.items())), events, found.doubts)


def _keyed(events: Iterable[DomainEvent]) -> list[tuple[str, DomainEvent]]:
    """Events with their keys. Two classes of one name, of two aggregates say, are told apart by
    who records them.
    """
    events = list(events)
    classes = Counter(type for type, _ in {(event.type, event.cls) for event in events})
    return [
        (
            f"event.{event.owner}.{event.type}"
            if classes[event.type] > 1
            else f"event.{event.type}",
            event,
        )
        for event in events
    ]
