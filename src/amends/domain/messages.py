"""The messages between the parts of the engine: commands, in the imperative.

`RunStep` goes to an activity queue. All others go to the inbox of the instance they name.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from amends.domain.events import AttemptOutcome, ErrorInfo, Resolution
from amends.domain.ids import InstanceId
from amends.errors import InvalidMessage, PayloadTooLarge


class EngineMessage(BaseModel):
    """Base: a message about one saga instance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    saga: str
    id: str

    @property
    def instance(self) -> InstanceId:
        """The instance that the message is about."""
        return InstanceId(self.saga, self.id)


class RunStep(EngineMessage):
    """Run one attempt of a step."""

    seq: int
    attempt: int
    activity: str
    of: int | None = None
    """For an undo or a probe: the number of the step that it is about."""
    input: Any = None
    result: Any = None
    """For an undo: the result of the step that it undoes, or None if that is unknown."""
    deadline: datetime | None = None

    @property
    def idempotency_key(self) -> str:
        """The same on every attempt: `<saga>/<id>/<seq>`.

        Of an undo it is `<saga>/<id>/<step>/<undo>`: a late report may have a step undone again,
        with the result that was missing, and whatever the first undo did must not be done twice.
        """
        if self.of is not None:
            return f"{self.saga}/{self.id}/{self.of}/{self.activity}"
        return f"{self.saga}/{self.id}/{self.seq}"

    @property
    def origin_key(self) -> str | None:
        """For an undo or a probe: the idempotency key of the step that it is about."""
        return None if self.of is None else f"{self.saga}/{self.id}/{self.of}"


class StartSaga(EngineMessage):
    """Start an instance, unless it exists."""

    input: Any = None
    deadline: datetime | None = None


class ReportCompleted(EngineMessage):
    """An attempt has a result."""

    seq: int
    attempt: int
    result: Any = None


class ReportFailed(EngineMessage):
    """An attempt ended without a result."""

    seq: int
    attempt: int
    outcome: AttemptOutcome
    error: ErrorInfo


class RetryStep(EngineMessage):
    """The backoff before an attempt is over."""

    seq: int
    attempt: int


class ExpireStep(EngineMessage):
    """The time for all attempts of a step together is over."""

    seq: int


class FireTimer(EngineMessage):
    """A timer is due; `seq` 0 is the deadline of the whole saga."""

    seq: int


class DeliverSignal(EngineMessage):
    """A signal from outside."""

    name: str
    payload: Any = None


class CancelSaga(EngineMessage):
    """Cancel, which compensates."""

    who: str
    why: str


class TerminateSaga(EngineMessage):
    """End on the spot, undoing nothing."""

    who: str
    why: str


class ResolveStep(EngineMessage):
    """A person's decision about a parked step."""

    seq: int
    resolution: Resolution
    who: str
    why: str
    result: Any = None


class WakeSaga(EngineMessage):
    """Look at the instance again: publish what is outstanding, and try its code if it stalled."""

    try_number: int = 0


#: What the engine sends to an instance on its own, and nobody asked for. Not the report of a
#: completed attempt: that an effect happened, somebody must hear of.
OF_THE_ENGINE: Final = (ReportFailed, RetryStep, ExpireStep, FireTimer, WakeSaga)

#: What an inbox takes: a payload, and what goes with it. Twice as much fits into one append.
MESSAGE_BYTES_MAX: Final = 384 * 1024


def check_size(body: bytes) -> None:
    """Raise PayloadTooLarge for a message that no inbox takes."""
    if len(body) > MESSAGE_BYTES_MAX:
        raise PayloadTooLarge(
            f"a message of {len(body)} bytes is over the limit, which is {MESSAGE_BYTES_MAX}; it "
            "was not acted upon. Say it shorter, or store the bulk elsewhere"
        )


ENGINE_MESSAGES: Final[tuple[type[EngineMessage], ...]] = (
    RunStep,
    StartSaga,
    ReportCompleted,
    ReportFailed,
    RetryStep,
    ExpireStep,
    FireTimer,
    DeliverSignal,
    CancelSaga,
    TerminateSaga,
    ResolveStep,
    WakeSaga,
)
_BY_NAME: Final = {cls.__name__: cls for cls in ENGINE_MESSAGES}


def encode_message(message: EngineMessage) -> bytes:
    """The JSON body of a message; its type is its class name."""
    return message.__pydantic_serializer__.to_json(message, exclude_defaults=True)


def decode_message(type: str, body: bytes) -> EngineMessage:
    """The message of a type and a body. Raises InvalidMessage."""
    cls = _BY_NAME.get(type)
    if cls is None:
        raise InvalidMessage(f"no message is of type {type!r}; it was not acted upon")
    try:
        message: EngineMessage = cls.__pydantic_validator__.validate_json(body)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'the whole'}: {fault['type']}"
            for fault in error.errors(include_input=False, include_url=False)
        )
        raise InvalidMessage(
            f"this is no {type} message: {faults}; it was not acted upon"
        ) from None
    return message
