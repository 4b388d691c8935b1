"""The contract of the committer, as tests that run over any backend.

A backend's own test module inherits the class and says how to make the three ports::

    class TestMyCommitter(CommitterContract):
        @pytest.fixture
        async def engine(self, clock):
            store, broker = await MyStore.open(clock=clock), await MyBroker.open(clock=clock)
            await broker.declare([QUEUE, OTHER_QUEUE])
            yield Engine(store, broker, SequentialCommitter(store, broker))
            await broker.close()
            await store.close()

See `amends.testing.store_contract` for what pytest needs.
"""

from __future__ import annotations

from amends.testing.contracts.broker_base import OTHER_QUEUE, QUEUE
from amends.testing.contracts.committing import CommitContract, Engine, RaceContract

__all__ = ["OTHER_QUEUE", "QUEUE", "CommitterContract", "Engine"]


class CommitterContract(CommitContract, RaceContract):
    """Everything that the port promises. See the module for how to use it."""
