"""Bank accounts, and stores that fail in the ways stores fail."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from amends.domain.aggregate import Aggregate, applies
from amends.domain.clock import SystemClock
from amends.domain.envelope import NewEvent, RecordedEvent
from amends.domain.ids import NO_STREAM, StreamName
from amends.errors import (
    AppendOutcomeUnknown,
    Failure,
    StoreUnavailable,
    WrongExpectedVersion,
)
from amends.stores.memory import MemoryStore
from amends.stores.port import Append, Appended

STREAM = StreamName("account-1")
UNKNOWN = AppendOutcomeUnknown("sent, and no answer")
DOWN = StoreUnavailable("not now")


class Deposited(BaseModel, frozen=True):
    amount: int


class Withdrawn(BaseModel, frozen=True):
    amount: int
    fee: float = 0


class Noted(BaseModel, frozen=True):
    text: str


class Overdrawn(Failure):
    pass


class Account(Aggregate):
    category = "account"
    events = (Deposited, Withdrawn, Noted)

    balance = 0

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.notes: list[str] = []

    def deposit(self, amount: int) -> None:
        self.record(Deposited(amount=amount))

    def withdraw(self, amount: int, *notes: str) -> None:
        self.record(Withdrawn(amount=amount))
        for note in notes:
            self.record(Noted(text=note))
        if self.balance < 0:
            raise Overdrawn(f"{self.balance + amount} is less than {amount}")

    @applies(Deposited)
    def _deposited(self, event: Deposited) -> None:
        self.balance += event.amount

    @applies(Withdrawn)
    def _withdrawn(self, event: Withdrawn) -> None:
        self.balance -= event.amount

    @applies(Noted)
    def _noted(self, event: Noted) -> None:
        if event.text == "poison":
            self.balance = -1
            raise ZeroDivisionError
        self.notes.append(event.text)


class Store(MemoryStore):
    """A store that counts what is read, and can be told to fail."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.read_events = 0
        self.gate: asyncio.Event | None = None
        self.at_gate = asyncio.Event()
        self.before_append: list[Callable[[], Any]] = []
        self.after_append: list[Callable[[], Any]] = []

    def sibling(self) -> Store:
        """The same log, through another process's eyes."""
        other = Store()
        other._log = self._log
        return other

    async def read(
        self, stream: StreamName, *, start: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        page = await super().read(stream, start=start, limit=limit)
        self.read_events += len(page)
        return page

    async def append(self, append: Append) -> Appended:
        if self.gate is not None:
            self.at_gate.set()
            await self.gate.wait()
        if self.before_append:
            self.before_append.pop(0)()
        appended = await super().append(append)
        if self.after_append:
            self.after_append.pop(0)()
        return appended

    def log(self) -> list[RecordedEvent]:
        return self._log.streams.get(STREAM, [])


def raises(error: Exception) -> Callable[[], Any]:
    def fail() -> None:
        raise error

    return fail


def deposit(amount: int) -> Callable[[Account], None]:
    return lambda account: account.deposit(amount)


def withdraw(amount: int, *notes: str) -> Callable[[Account], None]:
    return lambda account: account.withdraw(amount, *notes)


class Chaos(Store):
    """Loses answers, lets appends arrive late, and is down at times; by its seed."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.late: set[asyncio.Task[Any]] = set()

    def seen_by(self, other: Chaos) -> Chaos:
        self._log = other._log
        return self

    async def append(self, append: Append) -> Appended:
        await self._dawdle()
        fate = self.rng.random()
        if fate < 0.1:
            raise DOWN
        if fate < 0.2:
            raise UNKNOWN
        if fate < 0.3:
            self.late.add(asyncio.create_task(self._arrive_late(append)))
            raise UNKNOWN
        appended = await super().append(append)
        await self._dawdle()
        if fate < 0.45:
            raise UNKNOWN
        return appended

    async def read(
        self, stream: StreamName, *, start: int = 0, limit: int | None = None
    ) -> list[RecordedEvent]:
        await self._dawdle()
        if self.rng.random() < 0.1:
            raise DOWN
        return await super().read(stream, start=start, limit=limit)

    async def _arrive_late(self, append: Append) -> None:
        await self._dawdle()
        with suppress(WrongExpectedVersion):
            await MemoryStore.append(self, append)

    async def _dawdle(self) -> None:
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)


def opening() -> Append:
    """An account's first event, as a program of others would write it."""
    return Append(STREAM, [NewEvent(UUID(int=1), "Deposited", b'{"amount":100}', b"")], NO_STREAM)
