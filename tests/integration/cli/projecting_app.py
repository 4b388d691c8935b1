"""An application with a projection."""

from __future__ import annotations

from sqlalchemy import Column, Integer, MetaData, String, Table

from amends import App, SagaContext, saga
from amends.domain.events import SagaStarted
from amends.projections import Event, Projection, Rows, on

counted = Table("counted", MetaData(), Column("id", String, primary_key=True), Column("n", Integer))
#: Inputs that the projection refuses.
held: set[int] = set()


class Counts(Projection):
    name = "counts"
    tables = (counted,)
    skips_unknown = True

    @on(SagaStarted)
    def started(self, event: Event[SagaStarted], rows: Rows) -> None:
        if event.data.input in held:
            raise ValueError(f"{event.stream_id} is held")
        rows.insert(counted, id=event.stream_id, n=event.data.input)


@saga
async def count(ctx: SagaContext, n: int) -> int:
    return n


app = App(sagas=[count], projections=[Counts()])
