"""`amends schema`."""

from __future__ import annotations

import json

from tests.integration.cli.conftest import APP, Amends


def test_a_json_schema(amends: Amends) -> None:
    made = json.loads(amends.ok("schema", APP).out)
    assert made["title"] == APP
    assert made["$defs"]["saga.transfer.input"]["$ref"] == "#/$defs/Transfer"
    assert made["$defs"]["event.MoneyTransferred"]["x-version"] == 1


def test_an_asyncapi_document(amends: Amends) -> None:
    ran = amends.ok("schema", APP, "--asyncapi", "--title", "Money", "--version", "2.0.0")
    made = json.loads(ran.out)
    assert made["info"] == {"title": "Money", "version": "2.0.0"}
    assert made["channels"]["commands.ledger"]["address"] == "commands.ledger"


def test_no_such_application(amends: Amends) -> None:
    ran = amends("schema", "nowhere:app")
    assert ran.code == 2
    assert "there is no module 'nowhere'" in ran.err
