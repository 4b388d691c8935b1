"""What `amends schema` prints: valid by the official schemas, true of what is recorded, and stable."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator
from pydantic import BaseModel
from pydantic_core import from_json

from amends import App
from amends.domain.ids import START
from amends.errors import DefinitionError
from amends.schema.asyncapi import asyncapi
from amends.schema.bundle import json_schema
from amends.schema.catalog import catalog_of
from amends.schema.found import domain_events
from tests.unit.schema import sample

DATA = Path(__file__).resolve().parents[2] / "data"
ORDER = sample.Order.model_validate(
    {"amount": "1.50", "payment": {"kind": "card", "number": "1"}, "size": (1, "xl")}
)


def bundle(app: App = sample.app) -> dict[str, Any]:
    return json_schema(catalog_of(app), "sample")


def document(app: App = sample.app) -> dict[str, Any]:
    return asyncapi(app, catalog_of(app), title="sample", version="1.2.0")


def official() -> Draft7Validator:
    return Draft7Validator(
        json.loads(gzip.decompress((DATA / "asyncapi/3.0.0.json.gz").read_bytes()))
    )


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def resolve(whole: Any, reference: str) -> Any:
    found = whole
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def test_the_bundle_is_a_json_schema_and_every_reference_leads_somewhere() -> None:
    made = bundle()
    Draft202012Validator.check_schema(made)
    assert all(resolve(made, reference) for reference in references(made))


def test_the_document_is_asyncapi_and_every_reference_leads_somewhere() -> None:
    made = document()
    official().validate(made)
    assert all(resolve(made, reference) for reference in references(made))


def test_the_official_schema_would_notice() -> None:
    made = document()
    made["channels"]["inbox"]["adress"] = "inbox"
    assert not official().is_valid(made)


@pytest.mark.parametrize(("name", "make"), [("schema", bundle), ("asyncapi", document)])
def test_it_is_the_same_as_ever(name: str, make: Callable[[], dict[str, Any]]) -> None:
    made = json.dumps(make(), indent=1) + "\n"
    golden = DATA / "schema" / f"{name}.json"
    # To change it on purpose: golden.write_text(made)
    assert made == golden.read_text()


async def test_what_is_recorded_and_sent_is_as_described() -> None:
    made = bundle()

    def check(key: str, value: Any) -> None:
        wanted = {**made, "$ref": f"#/$defs/{key}"}
        Draft202012Validator(wanted).validate(value)

    async with sample.app.run("memory://") as client:
        handle = await client.start(sample.buy, ORDER, id="o-1")
        await handle.signal(sample.confirmed, sample.Confirmation(by="me"))
        await handle.result()
        recorded = await client.backend.store.read_all(START, limit=100)
    types = [record.type for record in recorded]
    assert {"SagaStarted", "Paid", "SignalReceived", "goods.shipped"} <= set(types)
    for record in recorded:
        kind = "event" if record.type in ("Paid", "goods.shipped") else "journal"
        check(f"{kind}.{record.type}", from_json(record.data))
        if record.type == "SagaStarted":
            check("saga.buy.input", from_json(record.data)["input"])
    with pytest.raises(Exception, match="'amount' is a required property"):
        check("event.Paid", {})


def test_a_payload_of_a_queue_or_journal_is_told_by_its_activity_or_saga() -> None:
    made = document()
    narrowed = made["components"]["messages"]["RunStep.give_back"]["payload"]["allOf"][1]
    assert narrowed["properties"] == {
        "activity": {"const": "give_back"},
        "input": {"$ref": "#/components/schemas/activity.pay.input"},
        "result": {
            "anyOf": [{"$ref": "#/components/schemas/activity.pay.result"}, {"type": "null"}]
        },
    }
    assert set(made["channels"]) == {
        "journal.buy", "aggregate.shop", "aggregate.till", "commands.bank", "commands.shop", "inbox",
    }  # fmt: skip
    assert "DeliverSignal.buy.confirmed" in made["channels"]["inbox"]["messages"]


def test_draft_7_has_other_words() -> None:
    order = document()["components"]["schemas"]["Order"]["properties"]
    assert order["payment"]["discriminator"] == "kind"
    assert order["size"]["items"] == [{"type": "integer"}, {"type": "string"}]
    assert "prefixItems" in bundle()["$defs"]["Order"]["properties"]["size"]


def test_two_events_of_one_name_are_told_apart_by_who_records_them() -> None:
    keys = bundle()["$defs"].keys()
    assert {"event.shop.Opened", "event.till.Opened"} <= keys
    assert "event.Opened" not in keys


def test_versions_are_told() -> None:
    shipped = bundle()["$defs"]["event.goods.shipped"]
    assert (shipped["x-version"], shipped["x-oldest-version"]) == (2, 1)
    assert document()["components"]["messages"]["event.goods.shipped"]["x-version"] == 2


def test_what_cannot_be_found_is_said() -> None:
    found = domain_events(App(sagas=[sample.secretive, sample.by_variable]))
    assert [event.cls for event in found.events] == [sample.Paid]
    assert "saga 'secretive' emits at line" in found.doubts[0]
    named = domain_events(App(sagas=[sample.secretive], events=[sample.Paid]))
    assert [event.cls for event in named.events] == [sample.Paid]


def test_an_application_names_only_events() -> None:
    with pytest.raises(DefinitionError, match="cannot be an event"):
        App(events=[BaseModel])


def test_a_type_without_a_schema_is_named() -> None:
    with pytest.raises(DefinitionError, match=r"activity\.call\.input has no JSON Schema"):
        bundle(App(activities=[sample.call]))


def test_an_empty_application_has_the_engines_own() -> None:
    official().validate(document(App()))
    assert "journal.SagaStarted" in bundle(App())["$defs"]
