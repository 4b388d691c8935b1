"""One JSON Schema document with the schema of every event and command."""

from __future__ import annotations

from typing import Any, Final

from amends.schema.catalog import Catalog, Entry

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema(catalog: Catalog, title: str) -> dict[str, Any]:
    """A JSON Schema (2020-12) whose `$defs` are the entries of an application, and their models.

    The same application gives the same document. Raises DefinitionError for a type that has no
    JSON Schema.
    """
    found, models = catalog.schemas("#/$defs/{model}")
    entries = {key: {**_head(catalog.entries[key]), **schema} for key, schema in found.items()}
    return {
        "$schema": DIALECT,
        "title": title,
        "description": (
            "The events and commands of an application: journal.TYPE (events of a saga's journal), "
            "event.TYPE (domain events), message.TYPE (between the parts of the engine), "
            "activity.NAME.input and .result, saga.NAME.input and .result, signal.SAGA.NAME. What "
            "is not required may be missing, and then has its default."
        ),
        "$defs": {**entries, **dict(sorted(models.items()))},
    }


def _head(entry: Entry) -> dict[str, Any]:
    if entry.versions is None:
        return {"title": entry.title}
    return {
        "title": entry.title,
        "x-version": entry.versions.version,
        "x-oldest-version": entry.versions.oldest,
    }
