"""A round: one turn of each of several instances, taken together and committed together.

What a turn costs beside its own work (a task, a way out of the event loop's tasks, the wait for
its commit) is so paid once for many. They succeed or fail each on its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from amends.broker.commit import Committer
from amends.domain.clock import Clock
from amends.domain.ids import ExpectedVersion
from amends.domain.messages import StartSaga
from amends.errors import DecodeError, InvalidJournal, WrongExpectedVersion
from amends.sagas.cache import LiveCache
from amends.sagas.mailboxes import Mailbox
from amends.sagas.outside import outside_tasks
from amends.sagas.turn import Inbound, Live, Turn, TurnTaker
from amends.stores.port import EventStore


class NoTurn(Exception):
    """No turn can ever be taken for these messages: they are to be put aside."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class NoSuchInstance(Exception):
    """It was never started, or its journal was removed since."""


class Part:
    """One instance's part in a round. Afterwards there is either an `error`, and nothing of the
    turn counts, or a `turn` that is committed.
    """

    __slots__ = ("box", "error", "inbound", "live", "turn", "was_cached")

    def __init__(self, box: Mailbox, inbound: list[Inbound], live: Live | None) -> None:
        self.box = box
        self.inbound = inbound
        self.live = live
        self.was_cached = live is not None
        self.turn: Turn | None = None
        self.error: Exception | None = None

    def fail(self, error: Exception) -> None:
        """The turn comes to nothing. What is live of the instance may be ahead of its journal."""
        self.error = error
        self.turn = None
        self.discard()

    def discard(self) -> None:
        """Throw away what is live of the instance."""
        if self.live is not None:
            self.live.discard()
            self.live = None


class RoundTaker:
    """Takes rounds. `cache` keeps instances live between their turns."""

    def __init__(
        self,
        turns: TurnTaker,
        store: EventStore,
        committer: Committer,
        cache: LiveCache,
        clock: Clock,
        *,
        turn_messages_max: int,
    ) -> None:
        self._turns = turns
        self._store = store
        self._committer = committer
        self._cache = cache
        self._clock = clock
        self._turn_messages_max = turn_messages_max

    async def take(self, boxes: Sequence[Mailbox]) -> list[Part]:
        """Take a turn of each instance. What goes wrong with one stands in its part."""
        parts = [
            Part(box, box.take(self._turn_messages_max), self._cache.take(box.instance))
            for box in boxes
        ]
        try:
            if not_cached := [part for part in parts if part.live is None]:
                await self._load_all(not_cached)
            await outside_tasks(partial(self._take_turns, parts))
            if unsure := [part for part in parts if _may_know_too_little(part)]:
                await self._check_current(unsure)
            await self._commit([part for part in parts if part.turn is not None])
        except Exception as error:
            for part in parts:
                part.fail(part.error or error)
        except BaseException:
            for part in parts:
                part.discard()
            raise
        for part in parts:
            if part.turn is not None and part.live is not None:
                part.live.state.version += len(part.turn.events)
                self._cache.put(part.live)
        return parts

    # --- instances that are not live

    async def _load_all(self, parts: Sequence[Part]) -> None:
        to_read = []
        for part in parts:
            if part.box.may_be_new and isinstance(part.inbound[0].message, StartSaga):
                # Most probably new: the append at "no stream" finds out for less than a read.
                part.live = self._turns.begin(part.box.instance)
            else:
                to_read.append(part)
        if to_read:
            await asyncio.gather(*map(self._load, to_read))

    async def _load(self, part: Part) -> None:
        instance, inbound = part.box.instance, part.inbound
        try:
            records = await self._store.read(instance.stream)
            if records:
                part.live = await outside_tasks(lambda: self._turns.load(instance, records))
            elif any(isinstance(item.message, StartSaga) for item in inbound):
                inbound.sort(key=lambda item: not isinstance(item.message, StartSaga))
                part.live = self._turns.begin(instance)
            else:
                part.fail(NoSuchInstance(str(instance)))
        except (InvalidJournal, DecodeError) as error:
            part.fail(NoTurn("unreadable journal", str(error)))
        except Exception as error:
            part.fail(error)

    # --- turns

    def _take_turns(self, parts: Sequence[Part]) -> None:
        now = self._clock.now()
        for part in parts:
            if part.live is None:
                continue
            try:
                part.turn = self._turns.take(part.live, part.inbound, now)
            except Exception as error:
                part.fail(error)

    async def _check_current(self, parts: Sequence[Part]) -> None:
        """Fail those of which somebody else took a turn since the cache was filled.

        An append finds that out by itself. Without one, a message could pass for a duplicate
        only because the cache knows too little, and would be lost.
        """
        for part in parts:
            assert part.live is not None
            stream, known = part.box.instance.stream, part.live.state.version
            try:
                last = await self._store.read_backwards(stream, limit=1)
            except Exception as error:
                part.fail(error)
                continue
            actual = last[0].version if last else -1
            if actual != known:
                part.fail(WrongExpectedVersion(stream, ExpectedVersion(known), actual))

    async def _commit(self, parts: Sequence[Part]) -> None:
        turns = [part.turn.commit for part in parts if part.turn is not None]
        outcomes = await self._committer.commit(turns)
        for part, error in zip(parts, outcomes, strict=True):
            if error is not None:
                part.fail(error)


def _may_know_too_little(part: Part) -> bool:
    return part.was_cached and part.turn is not None and part.turn.commit.append is None
