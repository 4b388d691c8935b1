"""Every error that Amends raises, in one tree.

A message says what happened, what it means for the data, and what to do.

    AmendsError
    ├── Failure                      a declared business failure: retries stop, compensation runs
    │   ├── StepFailed               a step ended as *failed*
    │   ├── StepUnknown              a step ended as *unknown*: its effect may have happened
    │   └── DeadlineExceeded         the deadline of the whole saga passed
    ├── UsageError                   the program is wrong; nothing was appended or published
    │   ├── DefinitionError          a saga, activity or event is declared wrongly
    │   ├── NotRegistered            a name that the application does not have
    │   ├── InvalidPayload           a value that does not fit its declared type, or is not JSON
    │   ├── PayloadTooLarge          a value over the payload limit
    │   ├── InvalidFilter            a filter over instances that cannot be read
    │   ├── InvalidSettings          a setting that cannot be; nothing was opened
    │   └── NotAllowedInSaga         saga code tried what cannot be replayed
    ├── DeterminismError             code and journal disagree: the instance stalls, nothing is lost
    ├── DecodeError                  a record that cannot be understood
    │   ├── UnknownEventType
    │   └── UnknownSchemaVersion
    ├── InvalidJournal               events missing, doubled or out of order
    ├── InvalidMessage               a message that cannot be understood: it is dead-lettered
    ├── StoreError
    │   ├── WrongExpectedVersion     an optimistic append lost its race; nothing was written
    │   ├── StoreUnavailable         try again: locked, disconnected, not ready
    │   ├── AppendOutcomeUnknown     the append may or may not have happened: read the tail
    │   ├── StoreFull
    │   ├── StoreReadOnly
    │   ├── StoreCorrupt
    │   ├── NotAnAmendsStore         a file or database that is something else
    │   ├── EngineAlreadyRunning     two engines on one file
    │   └── StoreClosed
    ├── BrokerError
    │   ├── BrokerUnavailable        try again
    │   │   └── BrokerRefused        … when a person has seen to it: credentials, or a queue's arguments
    │   └── BrokerClosed
    ├── ProjectionError
    │   ├── ProjectionMismatch       tables or versions of the database and of the code do not fit
    │   ├── ProjectionStopped        it waits for a person: `amends projections`
    │   ├── ProjectionUnavailable    its database cannot be used right now: try again
    │   └── LeaseLost                another runner has the projection; nothing was written
    └── InstanceError                what a client is told of one saga instance
        ├── InstanceNotFound
        ├── StartConflict            the id exists with another input
        ├── StartUnconfirmed         the start is durable, but no engine took it up yet
        ├── ActionRefused            a signal, cancel or resolve that the instance's state refuses
        └── SagaNotCompleted         the instance ended otherwise than completed
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amends.domain.events import ErrorInfo


class AmendsError(Exception):
    """Base of everything that Amends raises on purpose."""


# --- declared failures -------------------------------------------------------------------------


class Failure(AmendsError):
    """A declared business failure. Subclass it, and raise it from an activity or from a saga.

    From an activity it ends the step as *failed* at once: it is never retried. From a saga it
    starts the compensation, and so does a TimeoutError of the saga's own `asyncio.timeout` or
    `wait_for`. Any other exception in a saga is a bug, which stalls the instance and compensates
    nothing.
    """


class StepFailed(Failure):
    """Raised in a saga by a step that ended as *failed*.

    `error` says what the activity reported; `caused_by(SomeFailure)` compares its type.
    """

    def __init__(self, activity: str, seq: int, error: ErrorInfo) -> None:
        super().__init__(f"step {seq} ({activity}) failed: {error.type}: {error.message}")
        self.activity = activity
        self.seq = seq
        self.error = error

    def caused_by(self, kind: type[BaseException]) -> bool:
        """Whether the activity raised `kind` (compared by name: the error crossed a process)."""
        return self.error.type == kind.__name__


class StepUnknown(StepFailed):
    """Raised in a saga by a step that ended as *unknown*: its effect may have happened.

    It is a `StepFailed`, so that code which does not care about the difference needs one clause;
    compensation does care, and runs the step's undo.
    """


class DeadlineExceeded(Failure):
    """The deadline of the whole saga passed before it ended; compensation runs."""


# --- usage -------------------------------------------------------------------------------------


class UsageError(AmendsError):
    """The program is wrong. Nothing was appended or published."""


class DefinitionError(UsageError):
    """A saga, activity, event or aggregate is declared wrongly; found at registration."""


class NotRegistered(UsageError):
    """A name that this application does not have."""


class InvalidPayload(UsageError):
    """A value that does not fit its declared type, or that JSON cannot carry."""


class PayloadTooLarge(UsageError):
    """A value whose JSON is over the payload limit."""


class InvalidFilter(UsageError):
    """A filter over instances that cannot be read; the message points at the place."""


class InvalidSettings(UsageError):
    """A setting has a value that it cannot have, or is none of ours. Nothing was opened."""


class NotAllowedInSaga(UsageError):
    """Saga code tried something that a replay could not repeat (clock, entropy, I/O, threads)."""


class DeterminismError(AmendsError):
    """Today's code takes other decisions than the journal has on record.

    Nothing was appended for the decision in question, and nothing is compensated: the instance
    is stalled and goes on by itself when code that agrees with its journal is deployed.
    """

    def __init__(self, instance: str, seq: int | None, recorded: str, wanted: str) -> None:
        at = f"decision {seq}" if seq is not None else "the end of the journal"
        super().__init__(
            f"{instance} at {at}: the journal has {recorded}, but the code wants {wanted}. "
            "Nothing was appended. Deploy code that takes the recorded decision (keep the old "
            "path for instances in flight); the instance then goes on by itself."
        )
        self.instance = instance
        self.seq = seq
        self.recorded = recorded
        self.wanted = wanted


# --- decoding ----------------------------------------------------------------------------------


class DecodeError(AmendsError):
    """A stored record that cannot be understood; it was left as it is."""

    def __init__(self, what: str, *, stream: str, position: int, type: str) -> None:
        super().__init__(f"{what} (stream {stream!r}, position {position}, type {type!r})")
        self.stream = stream
        self.position = position
        self.type = type


class UnknownEventType(DecodeError):
    """An event type that is not registered."""


class UnknownSchemaVersion(DecodeError):
    """An event schema version that no upcaster leads from, or that is newer than this code."""


class InvalidJournal(AmendsError):
    """A journal that no engine can have written: events missing, doubled or out of order."""


class InvalidMessage(AmendsError):
    """A message that cannot be understood. It is dead-lettered, never acted upon."""


# --- stores ------------------------------------------------------------------------------------


class StoreError(AmendsError):
    """Base of what an event store raises."""


class WrongExpectedVersion(StoreError):
    """The stream is not at the version that the append expected; nothing was written.

    `actual` is the version of the stream's last event, or -1 when the stream does not exist.
    """

    def __init__(self, stream: str, expected: object, actual: int) -> None:
        found = "does not exist" if actual < 0 else f"is at version {actual}"
        super().__init__(
            f"stream {stream!r} {found}, the append expected {expected}; nothing was written. "
            "Read the stream's tail and decide again."
        )
        self.stream = stream
        self.expected = expected
        self.actual = actual


class StoreUnavailable(StoreError):
    """The store cannot be used right now; nothing was written. Trying again is safe."""


class AppendOutcomeUnknown(StoreError):
    """The append was sent and never confirmed: read the stream's tail to learn what happened."""


class StoreFull(StoreError):
    """No room is left; nothing of this write was kept. Make room, then try again."""


class StoreReadOnly(StoreError):
    """The store may be read but not written."""


class StoreCorrupt(StoreError):
    """The store's files are damaged. Stop, copy them, and restore from a backup."""


class NotAnAmendsStore(StoreError):
    """The file or database is something else; it was not touched."""


class EngineAlreadyRunning(StoreError):
    """Another engine holds this file. Clients may share a file, engines may not."""


class StoreClosed(StoreError):
    """The store was closed; nothing was written."""


# --- broker ------------------------------------------------------------------------------------


class BrokerError(AmendsError):
    """Base of what a broker raises."""


class BrokerUnavailable(BrokerError):
    """The broker cannot be used right now. Publishing again with the same ids is safe."""


class BrokerRefused(BrokerUnavailable):
    """The broker refuses what it is asked for, and will until somebody changes that: credentials,
    permissions, or what was declared otherwise before. Nothing was published.
    """


class BrokerClosed(BrokerError):
    """The broker was closed; nothing was published."""


# --- projections -------------------------------------------------------------------------------


class ProjectionError(AmendsError):
    """Base of what projections and their databases raise."""


class ProjectionMismatch(ProjectionError):
    """The database has other tables than the code, or another version. Nothing was changed."""


class ProjectionStopped(ProjectionError):
    """The projection stopped at an event, and waits for a person to resume it or skip the event."""


class ProjectionUnavailable(ProjectionError):
    """The projections' database cannot be used right now; nothing was written. Try again."""


class LeaseLost(ProjectionError):
    """Another runner has taken the projection over; nothing was written."""


# --- the audit trail ---------------------------------------------------------------------------


class AuditError(AmendsError):
    """What the audit trail cannot do or show; nothing was changed."""


class InvalidBundle(AuditError):
    """A file that is no bundle for auditors, or a damaged one. Nothing of it was believed."""


class KeyUnusable(UsageError):
    """A key file that is missing, unreadable, encrypted, or of another kind."""


# --- instances ---------------------------------------------------------------------------------


class InstanceError(AmendsError):
    """What a client is told of one saga instance."""


class InstanceNotFound(InstanceError):
    """No instance of that name has been started, or its journal was removed since."""

    def __init__(self, instance: object) -> None:
        super().__init__(f"{instance} was never started here, or its journal was removed since")


class StartConflict(InstanceError):
    """The instance exists already with another input; the first one stands, untouched."""


class StartUnconfirmed(InstanceError):
    """The start is durable, but no engine took it up in time. Starting again is safe."""


class ActionRefused(InstanceError):
    """The instance is in a state that refuses the action; nothing was recorded."""


class SagaNotCompleted(InstanceError):
    """The instance ended otherwise than completed.

    `state` is its final state (compensated, failed, cancelled, terminated), `error` the reason.
    """

    def __init__(self, instance: str, state: str, error: Any) -> None:
        reason = f": {error.type}: {error.message}" if error is not None else ""
        super().__init__(f"{instance} ended {state}{reason}")
        self.instance = instance
        self.state = state
        self.error = error
