"""State comes from events alone, and every event has its handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from amends.domain.aggregate import Aggregate, applies
from amends.domain.codec import EventRegistry
from amends.errors import DefinitionError, Failure, NotRegistered, UsageError


class Opened(BaseModel, frozen=True):
    owner: str


class Deposited(BaseModel, frozen=True):
    amount: int


class Withdrawn(BaseModel, frozen=True):
    amount: int


class Unrelated(BaseModel, frozen=True):
    pass


class Overdrawn(Failure):
    pass


class Account(Aggregate):
    category = "account"
    events = (Opened, Deposited, Withdrawn)

    owner: str | None = None
    balance = 0

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.lines: list[int] = []

    def withdraw(self, amount: int) -> None:
        if amount > self.balance:
            raise Overdrawn(f"{self.balance} is less than {amount}")
        self.record(Withdrawn(amount=amount))

    @applies(Opened)
    def _opened(self, event: Opened) -> None:
        self.owner = event.owner

    @applies(Deposited, Withdrawn)
    def _moved(self, event: Deposited | Withdrawn) -> None:
        signed = event.amount if isinstance(event, Deposited) else -event.amount
        self.balance += signed
        self.lines.append(signed)


class CachingAccount(Account):
    def _opened(self, event: Opened) -> None:
        self.owner = event.owner.upper()


def account(*events: BaseModel) -> Account:
    return Account.of("a-1", [Opened(owner="jane"), Deposited(amount=10), *events])


def state(aggregate: Account) -> tuple[object, ...]:
    return (
        aggregate.id,
        aggregate.version,
        aggregate.pending,
        aggregate.owner,
        aggregate.balance,
        aggregate.lines,
    )


def test_a_new_one_has_no_history() -> None:
    fresh = Account("a-1")
    assert (fresh.id, fresh.version, fresh.exists, fresh.pending) == ("a-1", -1, False, ())
    assert repr(fresh) == "<Account a-1 at version -1>"


def test_history_makes_the_state() -> None:
    known = account(Withdrawn(amount=3))
    assert state(known) == ("a-1", 2, (), "jane", 7, [10, -3])
    assert known.exists


def test_a_decision_changes_the_state_at_once_and_waits_for_the_store() -> None:
    known = account()
    known.withdraw(3)
    known.withdraw(7)
    assert state(known) == (
        "a-1",
        1,
        (Withdrawn(amount=3), Withdrawn(amount=7)),
        "jane",
        0,
        [10, -3, -7],
    )
    with pytest.raises(Overdrawn):
        known.withdraw(1)
    known.commit()
    assert (known.version, known.pending, known.balance) == (3, (), 0)


def test_one_that_is_only_decided_exists_to_the_rest_of_the_decision() -> None:
    fresh = Account("a-1")
    fresh.record(Opened(owner="jane"))
    assert fresh.exists
    assert fresh.version == -1


moves = st.lists(
    st.builds(Deposited, amount=st.integers()) | st.builds(Withdrawn, amount=st.integers())
)


@settings(deadline=None)
@given(moves, moves)
def test_deciding_and_loading_make_the_same_state(before: list[Any], decided: list[Any]) -> None:
    live = account(*before)
    for event in decided:
        live.record(event)
    live.commit()
    assert state(live) == state(account(*before, *decided))


@settings(deadline=None)
@given(moves, moves)
def test_a_fork_is_another_one(before: list[Any], decided: list[Any]) -> None:
    known = account(*before)
    fork = known.fork()
    assert state(fork) == state(known)
    for event in decided:
        fork.record(event)
    assert state(known) == state(account(*before))
    assert fork.pending == tuple(decided)


class Tree(Aggregate):
    category = "tree"
    events = (Opened,)

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.leaves: list[str] = []
        self.same_leaves = self.leaves
        self.me = self

    @applies(Opened)
    def _opened(self, event: Opened) -> None:
        self.leaves.append(event.owner)


def test_a_fork_keeps_what_is_shared_within_shared() -> None:
    known = Tree("1")
    fork = known.fork()
    fork.record(Opened(owner="x"))
    assert fork.same_leaves is fork.leaves
    assert fork.me is fork
    assert known.leaves == []


def test_state_cannot_be_set_where_no_event_would_carry_it() -> None:
    known = account()
    with pytest.raises(UsageError, match=r"Account\.balance was set outside a handler"):
        known.balance = 99
    with pytest.raises(UsageError, match="new_idea"):
        known.new_idea = 1
    assert known.balance == 10


@pytest.mark.parametrize("method", ["record", "evolve"])
def test_an_event_of_others_changes_nothing(method: str) -> None:
    known = account()
    with pytest.raises(NotRegistered, match="Unrelated is not among the events of Account"):
        getattr(known, method)(Unrelated())
    assert state(known) == state(account())


class Nosy(Aggregate):
    category = "nosy"
    events = (Opened, Deposited)

    @applies(Opened)
    def _opened(self, event: Opened) -> None:
        self.record(Deposited(amount=1))

    @applies(Deposited)
    def _deposited(self, event: Deposited) -> None:
        raise ZeroDivisionError


def test_a_handler_decides_nothing() -> None:
    with pytest.raises(UsageError, match="Nosy recorded Deposited while it applied another"):
        Nosy("1").record(Opened(owner="x"))


def test_a_handler_that_fails_leaves_the_state_closed() -> None:
    known = Nosy("1")
    with pytest.raises(ZeroDivisionError):
        known.record(Deposited(amount=1))
    assert known.pending == ()
    with pytest.raises(UsageError, match="outside a handler"):
        known.owner = "x"


def test_history_comes_before_decisions() -> None:
    known = account()
    known.withdraw(1)
    with pytest.raises(UsageError, match="pending"):
        known.evolve(Deposited(amount=1))


def test_an_override_needs_no_mark() -> None:
    assert CachingAccount.of("1", [Opened(owner="jane")]).owner == "JANE"


@pytest.mark.parametrize("id", ["", "a\n", "a" * 201])
def test_a_bad_id_is_refused(id: str) -> None:
    with pytest.raises(UsageError, match="cannot be an id"):
        Account(id)


# --- definitions -------------------------------------------------------------------------------


def without_handler() -> None:
    class Forgetful(Aggregate):
        category = "x"
        events = (Opened, Deposited)

        @applies(Opened)
        def _opened(self, event: Opened) -> None: ...


def without_event() -> None:
    class Eager(Aggregate):
        category = "x"
        events = (Opened,)

        @applies(Opened, Deposited)
        def _opened(self, event: Opened | Deposited) -> None: ...


def two_handlers() -> None:
    class Double(Aggregate):
        category = "x"
        events = (Opened,)

        @applies(Opened)
        def _one(self, event: Opened) -> None: ...

        @applies(Opened)
        def _two(self, event: Opened) -> None: ...


def no_category() -> None:
    class Nameless(Aggregate):
        events = (Opened,)

        @applies(Opened)
        def _opened(self, event: Opened) -> None: ...


def bad_category() -> None:
    class Dashed(Aggregate):
        category = "bank-account"
        events = (Opened,)

        @applies(Opened)
        def _opened(self, event: Opened) -> None: ...


def async_handler() -> None:
    class Waiting(Aggregate):
        category = "x"
        events = (Opened,)

        @applies(Opened)  # type: ignore[arg-type]  # the type checker finds it too
        async def _opened(self, event: Opened) -> None: ...


def shared_default() -> None:
    class Sharing(Aggregate):
        lines: list[int] = []  # noqa: RUF012 - that is the point


def a_gap_between_versions() -> None:
    known = EventRegistry([Opened])
    known.upcast("Opened", 1, lambda fields: fields)

    class Old(Aggregate):
        category = "x"
        events = known

        @applies(Opened)
        def _opened(self, event: Opened) -> None: ...


def two_events_of_one_name() -> None:
    other = type("Opened", (BaseModel,), {"model_config": {"frozen": True}})

    class Twins(Aggregate):
        category = "x"
        events = (Opened, other)


def abstract() -> None:
    Aggregate("1")


@pytest.mark.parametrize(
    ("define", "why"),
    [
        (without_handler, "Forgetful has no handler for Deposited"),
        (without_event, "Eager applies Deposited, which `events` does not list"),
        (two_handlers, "both _one and _two apply Opened"),
        (no_category, "Nameless has no category"),
        (bad_category, "'bank-account' cannot be the name of a category"),
        (async_handler, "cannot be async"),
        (shared_default, r"Sharing\.lines: all instances would share this list"),
        (a_gap_between_versions, r"upcasters from \[1\]"),
        (two_events_of_one_name, "two classes want to be the event 'Opened'"),
        (abstract, "Aggregate declares no events"),
    ],
)
def test_a_bad_definition_is_found_when_it_is_made(define: Callable[[], None], why: str) -> None:
    with pytest.raises(DefinitionError, match=why):
        define()


class Base(Aggregate):
    """A base of the user's own: its subclasses say which events they have."""

    limits: ClassVar[dict[str, int]] = {}

    @applies(Opened)
    def _opened(self, event: Opened) -> None: ...


def test_a_base_class_may_bring_handlers() -> None:
    class Concrete(Base):
        category = "concrete"
        events = EventRegistry([Opened])

    assert Concrete.of("1", [Opened(owner="x")]).version == 0
    assert Concrete.registry is Concrete.events
