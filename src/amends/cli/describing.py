"""`amends schema`: what an application's events and commands look like, for other programs."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from amends.cli.appload import load_app
from amends.cli.options import AppName
from amends.cli.output import note
from amends.schema.asyncapi import asyncapi as asyncapi_of
from amends.schema.bundle import json_schema
from amends.schema.catalog import catalog_of

router = typer.Typer()


@router.command()
def schema(
    app: AppName,
    asyncapi: Annotated[
        bool, typer.Option("--asyncapi", help="An AsyncAPI 3 document instead.")
    ] = False,
    title: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Its title. Default: APP.", show_default=False),
    ] = None,
    version: Annotated[
        str, typer.Option(metavar="TEXT", help="The version of your interface, for --asyncapi.")
    ] = "1.0.0",
) -> None:
    """Print the JSON Schema of every event and command of an application.

    Events are the journals' own and your domain events, as the source of sagas and activities
    names them; commands are the inputs and results of sagas and activities, and signals. The same
    application gives the same document, so that a difference is a change of your interface.
    """
    application = load_app(app)
    catalog = catalog_of(application)
    name = app if title is None else title
    if asyncapi:
        document = asyncapi_of(application, catalog, title=name, version=version)
    else:
        document = json_schema(catalog, name)
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    for doubt in catalog.doubts:
        note(f"{doubt}; name it: App(…, events=[…])")
