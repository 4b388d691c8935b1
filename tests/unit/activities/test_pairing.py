"""What an activity's undo and probe must look like, and what of their options is heeded."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field

from amends import Activity, App, DidNotHappen, Happened, Retry, activity
from amends.errors import DefinitionError


class Receipt(BaseModel):
    number: int


Small = Annotated[int, Field(le=9, examples=[[1]])]


@activity(queue="bank", retry=Retry(max_attempts=7), timeout=5)
async def pay(cents: int) -> Receipt:
    return Receipt(number=cents)


@pytest.fixture
def step() -> Activity[int, Receipt]:
    return activity(name="pay", queue="bank", retry=Retry(max_attempts=7), timeout=5)(pay.fn)


def undone_by(step: Activity[Any, Any], undo: Any) -> None:
    step.undo(name="undo")(undo)
    App(activities=[step])


# --- undos


async def takes_an_int(cents: int, receipt: int | None) -> None: ...
async def takes_no_none(cents: int, receipt: Receipt) -> None: ...
async def takes_none_only(cents: int, receipt: None) -> None: ...


@pytest.mark.parametrize("undo", [takes_an_int, takes_no_none, takes_none_only])
def test_an_undo_must_take_the_result_or_none(step: Activity[int, Receipt], undo: Any) -> None:
    with pytest.raises(DefinitionError, match=r"must take `result: Receipt \| None` and takes"):
        undone_by(step, undo)


def fits(cents: int, receipt: Receipt | None) -> None: ...
def fits_in_older_words(cents: int, receipt: Optional[Receipt]) -> None: ...  # noqa: UP045
def takes_more(cents: int, receipt: Receipt | str | None) -> None: ...
def takes_anything(cents: int, receipt: Any) -> None: ...
def takes_an_option(cents: int, receipt: Receipt | None, *, dry: bool = False) -> None: ...


@pytest.mark.parametrize(
    "undo", [fits, fits_in_older_words, takes_more, takes_anything, takes_an_option]
)
def test_an_undo_may_take_more(step: Activity[int, Receipt], undo: Any) -> None:
    undone_by(step, undo)
    assert step.undo_activity is not None


@pytest.mark.parametrize("result", [int, None, list[int], Literal["a"], int | str | None, Small])
def test_any_type_of_result_can_be_undone(result: Any) -> None:
    def act(cents: int) -> None: ...
    def undo(cents: int, result: Any) -> None: ...

    act.__annotations__ = {"cents": int, "return": result}
    undo.__annotations__ = {"cents": int, "result": None, "return": None}
    if result is not None:
        undo.__annotations__["result"] = result | None
    undone_by(activity(act), undo)


def wants_a_keyword(cents: int, receipt: Receipt | None, *, dry: bool) -> None: ...
def takes_one(cents: int) -> None: ...
def takes_three(cents: int, receipt: Receipt | None, more: int) -> None: ...
def takes_any_number(cents: int, receipt: Receipt | None, *more: int) -> None: ...


@pytest.mark.parametrize("undo", [wants_a_keyword, takes_one, takes_three, takes_any_number])
def test_an_undo_takes_two_parameters(step: Activity[int, Receipt], undo: Any) -> None:
    with pytest.raises(DefinitionError, match="must take two"):
        undone_by(step, undo)


# --- probes


def test_a_probe_runs_as_its_step_does_unless_told_otherwise(step: Activity[int, Receipt]) -> None:
    @step.probe
    def find(cents: int) -> Happened[Receipt] | DidNotHappen:
        return DidNotHappen()

    assert find is step.probe_activity
    assert (find.name, find.queue, find.retry, find.timeout_s) == ("find", "bank", step.retry, 5)
    assert not find.is_async


def test_a_probe_has_options_of_its_own(step: Activity[int, Receipt]) -> None:
    once = Retry(max_attempts=1)

    @step.probe(name="look", queue="reads", retry=once, timeout=None)
    async def find(cents: int) -> Happened[Receipt] | DidNotHappen:
        return DidNotHappen()

    assert (find.name, find.queue, find.retry, find.timeout_s) == ("look", "reads", once, None)
    with pytest.raises(DefinitionError, match="has a probe already"):
        step.probe(find.fn)
