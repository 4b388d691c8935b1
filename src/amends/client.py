"""The client: starts sagas, signals and cancels them, and waits for what becomes of them.

What it sends is durable when a call returns. What it says of an instance it reads from the
journal, which is the only truth; there are no replies that could be lost.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, cast, overload
from uuid import UUID

from amends.backend import Backend
from amends.broker.mail import to_inbox
from amends.broker.port import Message
from amends.domain import events as e
from amends.domain import messages as m
from amends.domain.deadlines import Deadlines
from amends.domain.envelope import RecordedEvent
from amends.domain.ids import InstanceId, check_name
from amends.domain.payload import Payload
from amends.domain.status import Ending, Status, ending_of, may_follow_the_end
from amends.domain.unique import new_id
from amends.errors import (
    ActionRefused,
    InstanceNotFound,
    NotRegistered,
    SagaNotCompleted,
    StartConflict,
    StartUnconfirmed,
)
from amends.projections.reading import Projections
from amends.sagas import journal
from amends.sagas.definition import Saga
from amends.sagas.replay import fold
from amends.sagas.resolving import decide
from amends.sagas.signals import Signal
from amends.sagas.state import InstanceState
from amends.settings import Settings
from amends.watcher import Watch, Watcher

if TYPE_CHECKING:
    from amends.app import App
    from amends.worker import Engine

I = TypeVar("I")
R = TypeVar("R")
T = TypeVar("T")

CONFIRM_TIMEOUT_S = 30.0

#: What is sent to a signal by its name: the saga has its type.
_ANY: Final[Payload[Any]] = Payload(Any)


class Handle(Generic[R]):
    """One saga instance, from outside."""

    def __init__(
        self,
        client: Client,
        saga: Saga[Any, R] | None,
        instance: InstanceId,
        watch: Watch | None = None,
    ) -> None:
        self._client = client
        self._saga = saga
        #: Held since before the instance began, if this handle comes of its start.
        self._watch = watch
        self.instance = instance

    @property
    def id(self) -> str:
        """The id that the instance was started under."""
        return self.instance.id

    async def result(self, timeout: float | None = None) -> R:
        """Wait for the saga's end, and give its result.

        `timeout` is in seconds; the saga goes on when it passes. An instance that has not begun,
        as after `submit`, is waited for too, and so is one whose journal was removed, in vain;
        `state` tells.

        Raises SagaNotCompleted (compensated, failed, cancelled or terminated), TimeoutError, and
        what the engine of this process has failed with, if it did: the saga goes on when an engine
        runs again.
        """
        ending = await self._client.wait_for_end(self.instance, timeout, self._watch)
        if ending.status is not Status.COMPLETED:
            raise SagaNotCompleted(str(self.instance), str(ending.status), ending.error)
        if self._saga is None:
            return cast(R, ending.result)
        return cast(R, self._saga.result.from_json_value(ending.result))

    async def started(self, timeout: float | None = None) -> None:
        """Wait until the instance stands in its journal; of use after `submit`.

        `timeout` is in seconds. Raises TimeoutError.
        """
        await self._client.wait_for_start(self.instance, timeout)

    async def state(self) -> InstanceState:
        """Where the instance stands, by its journal. Raises InstanceNotFound."""
        return await self._client.state(self.instance)

    async def status(self) -> Status:
        """The one word for where the instance stands. Raises InstanceNotFound."""
        return (await self.state()).status

    async def journal(self) -> list[RecordedEvent]:
        """The instance's events, as the store has them. Raises InstanceNotFound."""
        return await self._client.journal(self.instance)

    @overload
    async def signal(self, signal: Signal[T], payload: T) -> None: ...
    @overload
    async def signal(self, signal: str, payload: Any) -> None: ...
    async def signal(self, signal: Signal[Any] | str, payload: Any) -> None:
        """Send a signal; durable on return, delivered once however often it is transported.

        By name, the payload is taken as the JSON value that it must be.

        Raises InvalidPayload, PayloadTooLarge, UsageError (a bad name), InstanceNotFound,
        ActionRefused (it has ended).
        """
        name = signal.name if isinstance(signal, Signal) else signal
        check_name("signal", name)
        type = signal.payload if isinstance(signal, Signal) else _ANY
        await self._act("signal", m.DeliverSignal, name=name, payload=type.to_json_value(payload))

    async def cancel(self, *, who: str, why: str) -> None:
        """Ask for the saga to be cancelled, which compensates it.

        Raises InstanceNotFound, ActionRefused (it has ended, or is past its pivot).
        """
        state = await self.state()
        if state.pivot_passed:
            raise ActionRefused(f"{self.instance} is past its pivot: it can only go forward")
        await self._act("cancel", m.CancelSaga, who=who, why=why)

    async def terminate(self, *, who: str, why: str) -> None:
        """End the saga on the spot. NOTHING is undone: what it did stays done.

        Raises InstanceNotFound, ActionRefused (it has ended).
        """
        await self._act("terminate", m.TerminateSaga, who=who, why=why)

    async def resolve(
        self,
        resolution: e.Resolution | str,
        *,
        who: str,
        why: str,
        seq: int | None = None,
        result: Any = None,
    ) -> None:
        """Decide about a parked step: "retry", "skip", or "complete" with a result by hand.

        `seq` may be left out while one step is parked. The decision, who took it and why go on
        record. `skip` treats a step as not done and goes on with None as its result. What the saga
        was told about before, and a late report put in question, is not run again: `skip` leaves it
        as it is, and `complete` says that it happened, so that it is undone.

        Raises ActionRefused (nothing is parked, several are, or it is not run again),
        InvalidPayload (the result does not fit the activity), NotRegistered (nobody can check
        the result: this client's application lacks the activity), UsageError (another word),
        InstanceNotFound.
        """
        decision = decide(
            await self.state(),
            self._client.app.activities,
            resolution,
            who=who,
            why=why,
            seq=seq,
            result=result,
        )
        await self._client.send(decision)

    async def _act(self, verb: str, message: type[m.EngineMessage], **fields: Any) -> None:
        ending = await self._client.ending(self.instance)
        if ending is not None:
            raise ActionRefused(
                f"{self.instance} has ended {ending.status}: there is nothing to {verb}"
            )
        await self._client.send(message(saga=self.instance.saga, id=self.instance.id, **fields))


class Client:
    """Talks to the sagas of one application. Made by `App.run` and `App.client`."""

    def __init__(self, app: App, backend: Backend, settings: Settings) -> None:
        self.app = app
        self.backend = backend
        self.settings = settings
        self._deadlines = Deadlines()
        self._watcher = Watcher(backend.store)
        self.projections = Projections(app.projections, settings, backend.store, backend.clock)
        """The application's projections: their rows, and how far they are."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._watcher.close()
        await self.projections.close()

    def watch_engine(self, engine: Engine) -> Coroutine[Any, Any, None]:
        """Tell everybody who waits, then or later, when the engine of this process fails. Runs
        until then. What has ended by then still gives its result.
        """
        return self._watcher.watch_engine(engine.failed)

    # --- starting

    async def start(
        self,
        saga: Saga[I, R],
        input: I | None = None,
        *,
        id: str | None = None,
        confirm_timeout: float = CONFIRM_TIMEOUT_S,
    ) -> Handle[R]:
        """Start an instance and wait until it stands in its journal.

        Starting again under an `id` with the same input gives the same instance, so that a
        caller who does not know whether a start got through can repeat it. Without an `id` the
        instance gets a random one. After its journal was removed (a retention, `amends purge`),
        a start under its id is no repeat: it makes A NEW INSTANCE, which does everything again.

        Raises InvalidPayload, PayloadTooLarge, NotRegistered, UsageError (a bad id),
        StartConflict (the id exists with another input), StartUnconfirmed (it is durable, but
        no engine took it up within `confirm_timeout` seconds). Once the engine of this process has
        failed by itself, raises what it failed with; then nothing was started. Whoever cancels the wait, or gets
        another error (the engine of this process failed, the broker cannot be reached), does not
        know whether it starts, and should start it again under its `id`.
        """
        instance, message = self._start_message(saga, input, id)
        # Before the look: somebody else may start it in between.
        watch = await self._watcher.watch(instance)
        if id is not None:
            known = await self.backend.store.read(instance.stream, limit=1)
            if known:
                self._check_same(saga, message, known[0])
                return Handle(self, saga, instance)
        watch.check()
        request = self._to_inbox(message, new_id())
        # Until it is confirmed it need not be durable: if this process dies, so does the caller.
        await self.backend.broker.request(request)
        try:
            with self._deadlines.within(confirm_timeout):
                first = await watch.started()
        except TimeoutError:
            await self.backend.broker.publish([request])
            raise StartUnconfirmed(
                f"{instance} is in the inbox and durable, but no engine took it up within "
                f"{confirm_timeout} s. It starts when one runs; starting it again is safe"
            ) from None
        self._check_same(saga, message, first)
        return Handle(self, saga, instance, watch)

    async def submit(
        self, saga: Saga[I, R], input: I | None = None, *, id: str | None = None
    ) -> Handle[R]:
        """Put a start into the inbox and return as soon as that is durable.

        For many starts at once, and when no engine may be running. If the id exists already, the
        first input stands.

        Raises InvalidPayload, PayloadTooLarge, NotRegistered, UsageError (a bad id).
        """
        instance, message = self._start_message(saga, input, id)
        await self.send(message)
        return Handle(self, saga, instance)

    def _start_message(
        self, saga: Saga[Any, Any], input: Any, id: str | None
    ) -> tuple[InstanceId, m.StartSaga]:
        if self.app.sagas.get(saga.name) is not saga:
            raise NotRegistered(
                f"saga {saga.name!r} is not registered with this application; add it to "
                "App(sagas=[…]). Nothing was started"
            )
        instance = InstanceId.of(saga.name, id if id is not None else str(new_id()))
        deadline = None
        if saga.deadline_s is not None:
            deadline = self.backend.clock.now() + timedelta(seconds=saga.deadline_s)
        message = m.StartSaga(
            saga=instance.saga,
            id=instance.id,
            input=saga.input.to_json_value(input),
            deadline=deadline,
        )
        return instance, message

    def _check_same(self, saga: Saga[Any, Any], wanted: m.StartSaga, first: RecordedEvent) -> None:
        event = journal.decode(first)
        assert isinstance(event, e.SagaStarted)
        if event.input == wanted.input:
            return
        if saga.input.from_json_value(event.input) != saga.input.from_json_value(wanted.input):
            raise StartConflict(
                f"{wanted.instance} exists already with another input; the first one stands. "
                "Use another id for another saga"
            )

    # --- looking

    @overload
    def handle(self, saga: Saga[Any, R], id: str) -> Handle[R]: ...
    @overload
    def handle(self, saga: str, id: str) -> Handle[Any]: ...
    def handle(self, saga: Saga[Any, Any] | str, id: str) -> Handle[Any]:
        """The handle of an instance that was started before, by anyone."""
        name = saga if isinstance(saga, str) else saga.name
        return Handle(self, self.app.sagas.get(name), InstanceId.of(name, id))

    async def journal(self, instance: InstanceId) -> list[RecordedEvent]:
        """The events of an instance. Raises InstanceNotFound."""
        records = await self.backend.store.read(instance.stream)
        if not records:
            raise InstanceNotFound(instance)
        return records

    async def state(self, instance: InstanceId) -> InstanceState:
        """Where an instance stands, by its journal. Raises InstanceNotFound."""
        return fold(instance, await self.journal(instance))

    async def ending(self, instance: InstanceId) -> Ending | None:
        """How an instance ended, by its journal; None while it goes on. Raises InstanceNotFound.

        Late reports may follow the end, so it is found from the back; however long the journal
        is, only what may follow an end is read.
        """
        before: int | None = None
        read = self.backend.store.read_backwards
        while page := await read(instance.stream, start=before, limit=20):
            for event in map(journal.decode, page):
                ending = ending_of(event)
                if ending is not None or not may_follow_the_end(event):
                    return ending
            before = page[-1].version - 1
        raise InstanceNotFound(instance)

    async def wait_for_start(self, instance: InstanceId, timeout: float | None) -> None:
        """Wait until an instance stands in its journal. Raises TimeoutError, and what the engine
        of this process has failed with.
        """
        watch = await self._watcher.watch(instance)
        if not await self.backend.store.read(instance.stream, limit=1):
            with self._deadlines.within(timeout):
                await watch.started()

    async def wait_for_end(
        self, instance: InstanceId, timeout: float | None, watch: Watch | None = None
    ) -> Ending:
        """How an instance ended, once it has. `watch` is one from before its start, if there is.

        Raises TimeoutError, and what the engine of this process has failed with.
        """
        if watch is None or watch.has_failed:
            watch = await self._watcher.watch(instance)
            with suppress(InstanceNotFound):  # it may not have begun
                ending = await self.ending(instance)
                if ending is not None:
                    return ending
        with self._deadlines.within(timeout):
            last = ending_of(journal.decode(await watch.ended()))
        assert last is not None
        return last

    def stop_waiting(self, instance: InstanceId, error: Exception) -> None:
        """Raise an error in everybody who waits for an instance by this client."""
        self._watcher.fail_instance(instance, error)

    # --- sending

    async def send(self, message: m.EngineMessage, *, id: UUID | None = None) -> None:
        """Put a message into the inbox of its instance; durable on return.

        Raises PayloadTooLarge (a reason of half a megabyte, say).
        """
        await self.backend.broker.publish([self._to_inbox(message, id or new_id())])

    def _to_inbox(self, message: m.EngineMessage, id: UUID) -> Message:
        text, partitions = str(id), self.settings.partitions
        sent = to_inbox(message, id, partitions=partitions, correlation_id=text, causation_id=text)
        m.check_size(sent.body)
        return sent
