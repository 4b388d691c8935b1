"""An AsyncAPI 3 document of an application: its journals, aggregates, queues and inbox.

Schemas are AsyncAPI's own kind (a superset of JSON Schema draft 7), which every tool reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from amends.app import App
from amends.broker.topology import COMMANDS_PREFIX, INBOX_PREFIX
from amends.domain.envelope import CAUSATION_ID, CORRELATION_ID, SCHEMA_VERSION, TRACE_PARENT
from amends.domain.ids import JOURNAL_PREFIX
from amends.domain.messages import DeliverSignal, RunStep, StartSaga
from amends.schema.catalog import Catalog

VERSION: Final = "3.0.0"
_HEADERS: Final = "headers.event"
Document = dict[str, Any]


def asyncapi(app: App, catalog: Catalog, *, title: str, version: str) -> Document:
    """The document of an application; `version` is that of its interface.

    The same application gives the same document. Raises DefinitionError for a type that has no
    JSON Schema.
    """
    return _Writer(app, catalog).document(title, version)


class _Schemas(GenerateJsonSchema):
    """What draft 7 says in other words than 2020-12."""

    def tuple_schema(self, schema: core_schema.TupleSchema) -> JsonSchemaValue:
        made = super().tuple_schema(schema)
        if "prefixItems" in made:
            rest = made.pop("items", None)
            made["items"] = made.pop("prefixItems")
            if rest is not None:
                made["additionalItems"] = rest
        return made

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        made = super().tagged_union_schema(schema)
        if "discriminator" in made:
            made["discriminator"] = made["discriminator"]["propertyName"]
        return made


class _Writer:
    def __init__(self, app: App, catalog: Catalog) -> None:
        self._app = app
        self._catalog = catalog
        found, models = catalog.schemas("#/components/schemas/{model}", _Schemas)
        self._schemas = {**found, **models, _HEADERS: _headers()}
        self._messages: Document = {}
        self._channels: Document = {}
        self._operations: Document = {}

    def document(self, title: str, version: str) -> Document:
        for saga in self._app.sagas.values():
            self._journal(saga.name)
        for category in sorted({event.category for _, event in self._catalog.events}):
            if category:
                self._aggregate(category)
        for queue in self._app.queues:
            self._queue(queue)
        if self._app.sagas:
            self._inbox()
        return {
            "asyncapi": VERSION,
            "info": {"title": title, "version": version},
            "defaultContentType": "application/json",
            "channels": self._channels,
            "operations": self._operations,
            "components": {
                "messages": dict(sorted(self._messages.items())),
                "schemas": dict(sorted(self._schemas.items())),
            },
        }

    # --- channels

    def _journal(self, saga: str) -> None:
        specific = {
            "journal.SagaStarted": {"saga": _const(saga), "input": _ref(f"saga.{saga}.input")},
            "journal.SagaCompleted": {"result": _ref(f"saga.{saga}.result")},
        }
        keys = []
        for key in self._catalog.entries:
            if key.startswith("journal."):
                own = key.replace("journal.", f"journal.{saga}.")
                narrowed = specific.get(key)
                keys.append(self._event(key, own if narrowed else key, narrowed))
        keys += [self._event(key) for key, event in self._catalog.events if event.saga == saga]
        self._channel(
            f"journal.{saga}",
            f"{JOURNAL_PREFIX}{saga}-{{id}}",
            f"The journals of saga {saga}, one stream of the event store for each instance.",
            keys,
            {"id": {"description": "The id that the instance was started under."}},
            send="append",
        )

    def _aggregate(self, category: str) -> None:
        self._channel(
            f"aggregate.{category}",
            f"{category}-{{id}}",
            f"The streams of the aggregates {category} in the event store.",
            [self._event(key) for key, event in self._catalog.events if event.category == category],
            {"id": {"description": "The id of the aggregate."}},
            send="append",
        )

    def _queue(self, queue: str) -> None:
        keys = []
        for activity in self._app.activities.values():
            if activity.queue == queue:
                origin = activity.origin or activity
                narrowed = {
                    "activity": _const(activity.name),
                    "input": _ref(f"activity.{origin.name}.input"),
                }
                if activity.kind == "undo":
                    result = _ref(f"activity.{origin.name}.result")
                    narrowed["result"] = {"anyOf": [result, {"type": "null"}]}
                name = RunStep.__name__
                keys.append(self._message(name, f"{name}.{activity.name}", narrowed))
        self._channel(
            f"commands.{queue}",
            f"{COMMANDS_PREFIX}{queue}",
            f"The commands of the activities with queue {queue}. On RabbitMQ its name has a prefix.",
            keys,
            send="send",
            receive="run",
        )

    def _inbox(self) -> None:
        keys: list[str] = []
        for key in self._catalog.entries:
            if key.startswith("message."):
                keys += self._to_inbox(key.removeprefix("message."))
        self._channel(
            "inbox",
            f"{INBOX_PREFIX}{{partition}}",
            "What reaches saga instances. On RabbitMQ its name has a prefix, and messages travel in "
            "parcels: send through a client.",
            keys,
            {"partition": {"description": "The inbox of the instance, by the CRC-32 of its name."}},
            receive="take",
        )

    def _to_inbox(self, name: str) -> Iterator[str]:
        if name == StartSaga.__name__:
            for saga in self._app.sagas:
                narrowed = {"saga": _const(saga), "input": _ref(f"saga.{saga}.input")}
                yield self._message(name, f"{name}.{saga}", narrowed)
        elif name == DeliverSignal.__name__:
            for saga, definition in self._app.sagas.items():
                for signal in definition.signals:
                    payload = _ref(f"signal.{saga}.{signal}")
                    narrowed = {"saga": _const(saga), "name": _const(signal), "payload": payload}
                    yield self._message(name, f"{name}.{saga}.{signal}", narrowed)
        elif name != RunStep.__name__:
            yield self._message(name, name)

    def _channel(
        self, key: str, address: str, description: str, messages: Iterable[str],
        parameters: Document | None = None, **operations: str,
    ) -> None:  # fmt: skip
        self._channels[key] = {
            "address": address,
            "description": description,
            "messages": {m: {"$ref": f"#/components/messages/{m}"} for m in messages},
        }
        if parameters:
            self._channels[key]["parameters"] = parameters
        for action, verb in operations.items():
            self._operations[f"{key}.{verb}"] = {
                "action": action,
                "channel": {"$ref": f"#/channels/{key}"},
            }

    # --- messages

    def _event(
        self, key: str, name: str | None = None, narrowed: Mapping[str, Any] | None = None
    ) -> str:
        """Add the message of an event, and give its key."""
        entry = self._catalog.entries[key]
        message: Document = {
            "name": entry.title,
            "headers": _ref(_HEADERS),
            "correlationId": {"location": f"$message.header#/{CORRELATION_ID}"},
            "payload": self._payload(key, narrowed),
        }
        if entry.versions is not None:
            message["x-version"] = entry.versions.version
            message["x-oldest-version"] = entry.versions.oldest
        self._messages[name or key] = message
        return name or key

    def _message(self, name: str, key: str, narrowed: Mapping[str, Any] | None = None) -> str:
        """Add a message between the parts of the engine, and give its key."""
        self._messages[key] = {"name": name, "payload": self._payload(f"message.{name}", narrowed)}
        return key

    def _payload(self, key: str, narrowed: Mapping[str, Any] | None) -> Document:
        """The schema of an entry; of some of its fields more may be known than the entry says."""
        if not narrowed:
            return _ref(key)
        return {"allOf": [_ref(key), {"type": "object", "properties": dict(narrowed)}]}


def _headers() -> Document:
    return {
        "title": "The metadata of an event",
        "type": "object",
        "properties": {
            CORRELATION_ID: {"type": "string", "description": "The same for all of one matter."},
            CAUSATION_ID: {"type": "string", "description": "The message that led to it."},
            SCHEMA_VERSION: {"type": "integer", "minimum": 1, "default": 1},
            TRACE_PARENT: {"type": "string", "description": "W3C trace context."},
        },
    }


def _ref(schema: str) -> Document:
    return {"$ref": f"#/components/schemas/{schema}"}


def _const(value: str) -> Document:
    return {"const": value}
