"""A domain event that is too large is refused where it is emitted."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict

from amends import App, SagaContext, Status, saga
from amends.domain import events as e
from amends.testing.harness import Harness

pytestmark = pytest.mark.virtual_time


class Statement(BaseModel):
    model_config = ConfigDict(frozen=True)

    text: str


@saga
async def tells(ctx: SagaContext, size: int) -> None:
    ctx.emit(Statement(text="x" * size))


@pytest.mark.parametrize(
    ("size", "status"), [(200_000, Status.COMPLETED), (300_000, Status.STALLED)]
)
async def test_an_event_over_the_limit_stalls_its_saga_and_is_not_recorded(
    size: int, status: Status
) -> None:
    async with Harness(App(sagas=[tells])) as harness:
        handle = await harness.start(tells, size)
        await harness.settle()
        assert await handle.status() is status
        events = await harness.journal(handle)
        emitted = any(isinstance(event, e.DomainEventEmitted) for event in events)
        assert emitted is (status is Status.COMPLETED)
