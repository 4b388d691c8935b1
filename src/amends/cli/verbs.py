"""The verbs of the command line, each imported when it is asked for.

Most of the time that a short command takes is spent on importing and building commands, so the
other dozen are left alone. `--help`, and a completion of names, ask for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any, Final

import typer
from typer.main import get_group

from amends.cli.exits import Group

#: Each verb and its module, in the order of the help.
MODULES: Final = {
    "dev": "running",
    "orchestrator": "running",
    "worker": "running",
    "projector": "running",
    "start": "start",
    "list": "listing",
    "status": "status",
    "show": "showing",
    "signal": "acting",
    "cancel": "acting",
    "terminate": "acting",
    "resolve": "acting",
    "events": "following",
    "replay": "checking",
    "reconcile": "checking",
    "purge": "purging",
    "dead": "dead",
    "projections": "projecting",
    "audit": "auditing",
    "schema": "describing",
    "broker": "broker",
}


class Verbs(MutableMapping[str, Any]):
    """The commands by verb, as a group wants them."""

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}

    def __getitem__(self, verb: str) -> Any:
        if verb not in self._built:
            module = import_module(f"amends.cli.{MODULES[verb]}")
            self._built |= commands_of(module.router)
        return self._built[verb]

    def __setitem__(self, verb: str, command: Any) -> None:
        self._built[verb] = command

    def __delitem__(self, verb: str) -> None:
        del self._built[verb]

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


def commands_of(router: typer.Typer) -> dict[str, Any]:
    """The commands that a module registers: several verbs, or one group."""
    part = typer.Typer(rich_markup_mode="markdown")
    part.add_typer(router)
    return dict(get_group(part).commands)


class Root(Group):
    """The root command."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = Verbs()

    def list_commands(self, ctx: Any) -> list[str]:
        """The verbs, without importing them."""
        return list(self.commands)
