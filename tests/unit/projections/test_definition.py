"""What a projection may be, and what is refused when its class is made."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import Column, DateTime, ForeignKey, Integer, MetaData, Numeric, String, Table

from amends import Aggregate, App, EventRegistry, applies, event
from amends.domain.events import DomainEventEmitted, InputEvent, SagaCompleted, SagaStarted
from amends.errors import DefinitionError
from amends.projections import Event, Projection, Rows, on, on_every


def a_table(name: str = "things", *columns: Any) -> Table:
    return Table(name, MetaData(), Column("id", String, primary_key=True), *columns)


class Paid(BaseModel, frozen=True):
    amount: int


class Thing(Projection):
    name = "things"
    tables = (a_table(),)

    @on(Paid)
    def paid(self, event: Event[Paid], rows: Rows) -> None: ...


def define(**body: Any) -> type[Projection]:
    def paid(self: Projection, event: Event[Paid], rows: Rows) -> None: ...

    body = {"name": "x", "tables": (a_table(),), "paid": on(Paid)(paid), **body}
    return type("X", (Projection,), body)


def handler(*events: Any) -> Any:
    def handle(self: Projection, event: Event[Any], rows: Rows) -> None: ...

    return on(*events)(handle)


def _short(self: Any, event: Any) -> None: ...


short: Any = _short


class Loose(BaseModel):
    amount: int


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"name": "a-b"}, "cannot be the name of a projection"),
        ({"version": 0}, "count from 1"),
        ({"version": "1.0"}, "count from 1"),
        ({"streams": "account-"}, "write a tuple"),
        ({"tables": ()}, "at least one"),
        ({"tables": a_table()}, r"write tables = \(things,\)"),
        ({"tables": (a_table(), a_table("Things"))}, "two tables of one name"),
        ({"tables": (Table("t", MetaData(), Column("n", Integer)),)}, "no primary key"),
        ({"tables": (a_table("amends_projections"),)}, "cannot have that name"),
        ({"tables": (a_table("a b"),)}, "cannot have that name"),
        ({"tables": (a_table("t" * 41),)}, "cannot have that name"),
        ({"tables": (a_table("t", Column("at", DateTime)),)}, "Moment"),
        ({"tables": (a_table("t", Column("x", Numeric(10, 2))),)}, "SQLite rounds"),
        ({"tables": (a_table("t", Column("n", Integer, default=0)),)}, "has a default"),
        ({"tables": (a_table("t", Column("n", ForeignKey("other.id"))),)}, "foreign key"),
        ({"paid": lambda self, event, rows: None}, "handles nothing"),
        ({"paid": handler()}, "say which events"),
        ({"paid": handler("Nonsense")}, "no event of that name is known"),
        ({"paid": handler(InputEvent)}, "never stands in the log"),
        ({"paid": handler(DomainEventEmitted)}, "own class"),
        ({"paid": handler(Loose)}, "frozen"),
        ({"paid": handler(int)}, "handles no event"),
        ({"paid": handler(7)}, "is no event"),
        ({"paid": on("SagaStarted")(short)}, r"must take \(self, event, rows\)"),
        ({"other": handler(Paid)}, "both .* handle Paid"),
        ({"events": (Loose,)}, "neither an EventRegistry nor an aggregate"),
    ],
)
def test_what_cannot_be_is_refused(body: dict[str, Any], why: str) -> None:
    with pytest.raises(DefinitionError, match=why):
        define(**body)


def test_a_handler_cannot_be_async() -> None:
    with pytest.raises(DefinitionError, match="cannot be async"):

        class Async(Projection):
            name = "x"
            tables = (a_table(),)

            @on(Paid)  # type: ignore[arg-type]
            async def paid(self, event: Event[Paid], rows: Rows) -> None: ...


def test_an_event_that_changed_needs_its_upcasters() -> None:
    @event(version=2)
    class Changed(BaseModel, frozen=True):
        n: int

    with pytest.raises(DefinitionError, match="upcaster"):
        define(changed=handler(Changed))
    registry = EventRegistry([Changed])
    registry.upcast("Changed", 1, lambda fields: fields | {"n": 0})
    assert define(changed=handler(Changed), events=registry).handlers.others["Changed"] == "changed"


def test_events_may_be_named_by_text_if_they_are_known() -> None:
    class Account(Aggregate):
        category = "account"
        events = (Paid,)

        @applies(Paid)
        def _paid(self, event: Paid) -> None: ...

    made = define(paid=handler("Paid", "SagaStarted"), events=Account)
    assert dict(made.handlers.journals) == {"Paid": "paid", "SagaStarted": "paid"}
    assert dict(made.handlers.others) == {"Paid": "paid"}


def test_a_name_of_the_journals_own_is_something_else_in_other_streams() -> None:
    @event(name="SagaCompleted")
    class Finished(BaseModel, frozen=True): ...

    made = define(ended=handler(SagaCompleted), finished=handler(Finished))
    assert made.handlers.journals["SagaCompleted"] == "ended"
    assert made.handlers.others["SagaCompleted"] == "finished"


def test_the_filter_asks_for_no_more_than_is_handled() -> None:
    class Narrow(Projection):
        name = "narrow"
        tables = (a_table(),)
        streams = ("saga.pay-",)
        skips_unknown = True

        @on(SagaStarted, Paid)
        def some(self, event: Event[SagaStarted | Paid], rows: Rows) -> None: ...

    assert Narrow().filter == (("saga.pay-",), ("Paid", "SagaStarted"))
    assert Thing().filter == ((), ())

    class Every(Narrow):
        name = "every"

        @on_every
        def rest(self, event: Event[Any], rows: Rows) -> None: ...

    assert Every().filter == (("saga.pay-",), ())


def test_an_application_has_each_name_and_each_table_once() -> None:
    assert App(projections=[Thing()]).projections["things"].version == 1
    for others, why in (
        ([Thing], r"write Thing\(\)"),
        ([Thing(), Thing()], "two projections of the name 'things'"),
        ([Thing(), define(tables=(a_table("THINGS"),))()], "both have a table"),
    ):
        with pytest.raises(DefinitionError, match=why):
            App(projections=others)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="no name"):
        Projection()
