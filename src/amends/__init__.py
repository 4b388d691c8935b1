"""Amends: durable execution for Python that keeps both the program and the facts.

Sagas are plain `async def`; their state is rebuilt from domain events; commands go to activity
consumers; and when a saga fails, compensations make good whatever it already did.
"""

from amends.activities.aggregates import aggregates
from amends.activities.context import ActivityContext, activity_context
from amends.activities.definition import Activity, DidNotHappen, Happened, Undo, activity
from amends.app import App
from amends.client import Client, Handle
from amends.domain.aggregate import Aggregate, applies
from amends.domain.codec import EventRegistry, event
from amends.domain.ids import InstanceId
from amends.domain.retry import Retry
from amends.domain.status import Status
from amends.errors import (
    AmendsError,
    DeadlineExceeded,
    DeterminismError,
    Failure,
    SagaNotCompleted,
    StartConflict,
    StepFailed,
    StepUnknown,
    UsageError,
)
from amends.sagas.context import SagaContext
from amends.sagas.definition import Saga, saga
from amends.sagas.signals import Signal
from amends.settings import Settings
from amends.stores.repository import Repository
from amends.worker import Worker

__all__ = [
    "Activity",
    "ActivityContext",
    "Aggregate",
    "AmendsError",
    "App",
    "Client",
    "DeadlineExceeded",
    "DeterminismError",
    "DidNotHappen",
    "EventRegistry",
    "Failure",
    "Handle",
    "Happened",
    "InstanceId",
    "Repository",
    "Retry",
    "Saga",
    "SagaContext",
    "SagaNotCompleted",
    "Settings",
    "Signal",
    "StartConflict",
    "Status",
    "StepFailed",
    "StepUnknown",
    "Undo",
    "UsageError",
    "Worker",
    "activity",
    "activity_context",
    "aggregates",
    "applies",
    "event",
    "saga",
]
