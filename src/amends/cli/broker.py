"""`amends broker`: what stands in a broker of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from amends.app import App
from amends.backend import set_up_broker
from amends.broker.topology import all_queues
from amends.cli.appload import load_app
from amends.cli.exits import Stop
from amends.cli.opening import run
from amends.cli.options import Json
from amends.cli.output import busy, clean, emit, note, show
from amends.cli.render import table
from amends.settings import Settings

if TYPE_CHECKING:
    from amends.broker.rabbitmq.topology import Finding

router = typer.Typer(
    name="broker", help="What is declared in a broker of its own (RabbitMQ).", no_args_is_help=True
)


@router.command()
def setup(
    app: Annotated[
        str | None,
        typer.Argument(
            metavar="APP",
            help="The application whose command queues to make, too.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Make the exchanges and queues that Amends needs, and say which were there.

    Safe to repeat. What is there but differs is left as it is, and the command fails. Engines and
    clients make what they need by themselves, and need the same permissions for that; this is for
    doing it before, and for looking what differs.
    """
    application = App() if app is None else load_app(app)
    settings = Settings()
    with busy("setting up"):
        found = run(set_up_broker(settings, all_queues(application.queues, settings.partitions)))
    if json:
        for finding in found:
            emit(finding._asdict())
    else:
        show(_table(found))
    differing = sum(finding.differs is not None for finding in found)
    made = sum(finding.made for finding in found)
    note(f"{made} made, {len(found) - made - differing} were there, {differing} differ")
    if differing:
        raise Stop(
            f"{differing} differ from what Amends needs, and were left as they are. Look at what "
            "they hold, delete them, run this again, and then `amends reconcile`; or use another "
            "AMENDS_BROKER_PREFIX"
        )


def _table(found: Sequence[Finding]) -> Table:
    made = table("kind", "name", "is", "")
    for finding in found:
        if finding.differs is not None:
            outcome = Text("different", style="bold red")
        else:
            outcome = Text("made", style="green") if finding.made else Text("there", style="dim")
        made.add_row(finding.kind, finding.name, outcome, Text(clean(finding.differs or "")))
    return made
