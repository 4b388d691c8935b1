"""The contract of the event store port, as tests that run over any backend.

A backend's own test module inherits the class and says how to make a store::

    class TestMyStore(EventStoreContract):
        features = StoreFeatures(append_bytes_max=1_000_000)

        @pytest.fixture
        async def store(self, tmp_path, clock):
            store = await MyStore.open(tmp_path / "log", clock=clock)
            yield store
            await store.close()

        @pytest.fixture
        def reopen(self, tmp_path, clock):
            return lambda: MyStore.open(tmp_path / "log", clock=clock)

The tests are written for pytest, with pytest-asyncio in its `auto` mode and with hypothesis. To
see the values behind a failed assertion, put this in the first `conftest.py`::

    pytest.register_assert_rewrite("amends.testing.contracts")
"""

from __future__ import annotations

from amends.testing.contracts.appending import AppendContract
from amends.testing.contracts.reading import ReadContract
from amends.testing.contracts.removing import RemoveContract
from amends.testing.contracts.store_base import StoreFeatures
from amends.testing.contracts.store_lifecycle import StoreLifecycleContract
from amends.testing.contracts.store_model import ModelContract
from amends.testing.contracts.subscribing import SubscribeContract

__all__ = ["EventStoreContract", "StoreFeatures"]


class EventStoreContract(
    AppendContract,
    ReadContract,
    SubscribeContract,
    RemoveContract,
    StoreLifecycleContract,
    ModelContract,
):
    """Everything that the port promises. See the module for how to use it.

    `features` declares what a backend cannot do; the fixtures `store` and `reopen` make the
    stores, on the `clock` fixture's ManualClock.
    """
