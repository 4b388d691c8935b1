"""`amends projections` and `amends projector`."""

from __future__ import annotations

import asyncio
import io
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import select

from amends import App, Client
from amends.cli import rebuilding
from amends.domain.ids import Position
from amends.errors import ProjectionStopped
from tests.integration.cli import projecting_app
from tests.integration.cli.conftest import Amends, Process
from tests.integration.cli.projecting_app import counted, held


async def one_more(client: Client) -> None:
    handle = await client.start(projecting_app.count, 1)
    await handle.result()
    await client.projections.caught_up("counts")


def test_there_is_nothing_to_see_at_first(amends: Amends) -> None:
    amends.engine(start_one, app=App(sagas=[projecting_app.count]))
    assert "no projection has run here yet" in amends.ok("projections").err
    assert not Path("amends-projections.db").exists()
    assert amends("projections", "resume", "counts").code == 3


def test_an_engine_runs_them(amends: Amends) -> None:
    amends.engine(one_more, app=projecting_app.app)
    told = amends.ok("projections", "--json").json
    assert [(one["name"], one["state"], one["behind"]) for one in told] == [
        ("counts", "running", 0)
    ]
    assert "counts" in amends.ok("projections").out


def test_one_that_stopped_is_shown_and_goes_on(
    amends: Amends,
) -> None:
    async def stop(client: Client) -> None:
        held.add(7)
        handle = await client.start(projecting_app.count, 7, id="seven")
        await handle.result()
        with pytest.raises(ProjectionStopped):
            await client.projections.caught_up("counts")

    amends.engine(stop, app=projecting_app.app)
    shown = amends.ok("projections").out
    assert "counts stopped" in shown
    assert "seven is held" in shown
    assert "raise ValueError" in shown
    (told,) = amends.ok("projections", "--json").json
    assert (told["state"], told["fault"]["type"]) == ("stopped", "SagaStarted")
    assert "Missing option '--why'" in amends("projections", "skip", "counts").err
    assert "no projection 'count'" in amends("projections", "skip", "count", "--why", "x").err
    done = amends.ok("projections", "skip", "counts", "--why", "a test", "--who", "anna", "--json")
    assert done.json == [{"skipped": "counts", "position": told["fault"]["position"]}]
    assert "did not stop" in amends("projections", "resume", "counts").err
    made, skipped = amends.ok("projections", "history", "counts", "--json").json
    assert (made["action"], skipped["action"], skipped["who"]) == ("create", "skip", "anna")
    assert skipped["detail"]["type"] == "SagaStarted"
    assert "a test" in amends.ok("projections", "history").out
    assert "nothing was done" in amends.ok("projections", "history", "else").err
    amends.engine(one_more, app=projecting_app.app)

    async def numbers(client: Client) -> list[int]:
        return [row["n"] for row in await client.projections.query(select(counted))]

    assert amends.engine(numbers, app=projecting_app.app) == [1]
    held.clear()


def test_a_projector_runs_them_alone(
    amends: Amends, processes: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENDS_RUN_PROJECTIONS", "false")
    amends.engine(start_one, app=projecting_app.app)
    assert "no projection has run" in amends.ok("projections").err
    process = processes("projector", "tests.integration.cli.projecting_app:app")
    process.wait_for("projects for")
    amends.engine(caught_up, app=projecting_app.app)
    process.send(signal.SIGTERM)
    assert process.end().code == 0
    (told,) = amends.ok("projections", "--json").json
    assert (told["events"], told["owner"]) == (1, None)


async def start_one(client: Client) -> None:
    await (await client.start(projecting_app.count, 1)).result()


async def caught_up(client: Client) -> None:
    await client.projections.caught_up()


def test_a_projector_needs_projections(amends: Amends) -> None:
    ran = amends("projector", "tests.integration.cli.transfer_app:app")
    assert ran.code == 2
    assert "no projections" in ran.err


# --- rebuilding

APP = "tests.integration.cli.projecting_app:app"


def test_one_is_rebuilt_and_compared(amends: Amends) -> None:
    assert amends("projections", "rebuild", "counts", "--app", APP).code == 3
    amends.engine(one_more, app=projecting_app.app)
    ran = amends.ok("projections", "rebuild", "counts", "--app", APP)
    assert "counts is rebuilt: version 1, 1 events" in ran.err
    with sqlite3.connect("amends-projections.db") as connection:
        connection.execute("UPDATE counted SET n = 5")
    connection.close()
    refused = amends("projections", "rebuild", "counts", "--app", APP)
    assert refused.code == 1
    assert "--allow 1 swaps it" in refused.err
    assert '"n":5' in refused.out
    dry = amends.ok("projections", "rebuild", "counts", "--app", APP, "--dry-run", "--json").json
    assert (dry[0]["swapped"], dry[0]["tables"][0]["changed"]) == (False, 1)
    done = amends.ok("projections", "rebuild", "counts", "--app", APP, "--allow", "1", "--json")
    assert done.json[0]["swapped"]
    assert "no projection 'count'" in amends("projections", "rebuild", "count", "--app", APP).err


def test_one_is_built_as_of_a_moment(amends: Amends) -> None:
    amends.engine(one_more, app=projecting_app.app)
    amends.engine(one_more, app=projecting_app.app)
    start = ("projections", "as-of", "counts", "--app", APP)
    for number, (at, rows) in enumerate([("0", 1), ("2001-01-01", 0), ("2999-01-01T00:00Z", 2)]):
        ran = amends.ok(*start, "--at", at, "--into", f"then{number}.db", "--json")
        assert ran.json[0]["events"] == rows
        with sqlite3.connect(f"then{number}.db") as connection:
            assert connection.execute("SELECT count(*) FROM counted").fetchone() == (rows,)
        connection.close()
    assert amends(*start, "--at", "0", "--into", "then0.db").code == 2
    assert "neither a moment" in amends(*start, "--at", "noon", "--into", "x.db").err


def test_a_terminal_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(rebuilding, "console", lambda *, stderr: terminal)
    with rebuilding._progress("counts", 1999) as progress:
        assert progress is not None
        progress(1000, Position(999))
        progress(250, Position(1249))
        terminal.file.truncate(0)
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "counts" in shown
    assert "1,250 events" in shown
    assert "/s" in shown


def test_one_that_is_no_longer_needed_is_dropped(amends: Amends) -> None:
    amends.engine(one_more, app=projecting_app.app)

    async def drop(client: Client) -> None:
        ran = await asyncio.to_thread(amends, "projections", "drop", "counts", "--why", "x", "-y")
        assert ran.code == 1
        assert "is run by" in ran.err

    amends.engine(drop, app=projecting_app.app)
    assert amends("projections", "drop", "counts", "--why", "x", stdin="n\n").code == 1
    done = amends.ok("projections", "drop", "counts", "--why", "old", "--yes", "--json").json
    assert done == [{"dropped": "counts", "tables": ["counted"]}]
    assert not amends.ok("projections", "--json").json
    assert amends.ok("projections", "history", "--json").json[-1]["why"] == "old"
    amends.engine(one_more, app=projecting_app.app)
    assert amends.ok("projections", "--json").json[0]["events"] == 2
