"""What may happen to the event store happens under load: nothing is lost, and nothing is there twice.

The whole engine runs in this process over the adapter, and the protocol double misbehaves at moments
that are drawn from a seed. Then all payments must come to their end. The judge compares the bank's
ledger, which knows nothing of the engine, with the journals; and the journals, event by event, with
what the store has acknowledged and with what a subscription has delivered.

A failing seed is printed. `AMENDS_SEED=3 pytest tests/acceptance/test_store_faults.py` runs it again:
the same payments and the same draws, though not the same interleaving.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from amends.stores.eventstoredb import EventStoreDb, StoreAddress
from tests.acceptance.one_process import in_one_process
from tests.esdb.double import ProtocolDouble
from tests.esdb.faults import Call, Fault

SEED = int(os.environ.get("AMENDS_SEED", "1"))
EVENTS = int(os.environ.get("AMENDS_EVENTS", "800"))
#: Far more than it takes, also on a machine that is busy.
TIMEOUT_S = 60 + EVENTS / 20
#: Deadline of a call: what stalls is given up after that.
CALL_TIMEOUT_S = 0.5
LATE_S = 0.8

pytestmark = pytest.mark.timeout(TIMEOUT_S + 60)

Chances = Mapping[Call, Mapping[Fault, float]]

LOST_ACKNOWLEDGEMENTS: Chances = {
    Call.APPEND: {Fault.DROP_AFTER: 0.05, Fault.TIMEOUT_AFTER: 0.05, Fault.DROP_BEFORE: 0.02}
}
STALLS: Chances = {
    Call.APPEND: {Fault.STALL_BEFORE: 0.01, Fault.STALL_AFTER: 0.01, Fault.LATE: 0.01},
    Call.READ: {Fault.STALL_BEFORE: 0.01},
}
ENDED_SUBSCRIPTIONS: Chances = {
    Call.EVENT: {
        Fault.END: 0.01,
        Fault.ABORT: 0.01,
        Fault.TOO_SLOW: 0.01,
        Fault.DROP_BEFORE: 0.01,
    },
    Call.SUBSCRIBE: {Fault.NOT_READY: 0.1},
}
NEW_LEADERS: Chances = {Call.APPEND: {Fault.NEW_LEADER: 0.02}}
CUT_CONNECTIONS: Chances = {
    Call.APPEND: {Fault.CUT: 0.005},
    Call.READ: {Fault.CUT: 0.005},
    Call.EVENT: {Fault.CUT: 0.002},
}
NOT_READY: Chances = {
    Call.APPEND: {Fault.NOT_READY: 0.05},
    Call.READ: {Fault.NOT_READY: 0.05},
}


def together(*all_chances: Chances) -> Chances:
    """Everything at once."""
    found: dict[Call, dict[Fault, float]] = {}
    for chances in all_chances:
        for call, faults in chances.items():
            found.setdefault(call, {}).update(faults)
    return found


@pytest.mark.parametrize(
    "chances",
    [
        pytest.param(LOST_ACKNOWLEDGEMENTS, id="acknowledgements are lost"),
        pytest.param(STALLS, id="calls stall past their deadline"),
        pytest.param(ENDED_SUBSCRIPTIONS, id="subscriptions end"),
        pytest.param(NEW_LEADERS, id="the leader changes"),
        pytest.param(CUT_CONNECTIONS, id="connections break"),
        pytest.param(NOT_READY, id="the server is not ready"),
        pytest.param(
            together(
                *(LOST_ACKNOWLEDGEMENTS, STALLS, ENDED_SUBSCRIPTIONS),
                *(NEW_LEADERS, CUT_CONNECTIONS, NOT_READY),
            ),
            id="all of that",
        ),
    ],
)
async def test_payments_end_well_while_the_store_misbehaves(
    chances: Chances, tmp_path: Path
) -> None:
    async with (
        ProtocolDouble.running() as first,
        ProtocolDouble.running(beside=first) as second,
    ):
        nodes = (first, second)
        for number, node in enumerate(nodes):
            node.faults.late_after_s = LATE_S
            node.faults.by_chance(2 * SEED + number, chances)
        store = EventStoreDb(StoreAddress.parse(first.cluster_uri), timeout_s=CALL_TIMEOUT_S)

        def calm() -> None:
            for node in nodes:
                node.faults.stop()

        try:
            async with in_one_process(
                store, tmp_path, SEED, timeout_s=TIMEOUT_S, before_the_end=calm
            ) as payments:
                await payments.until_events(EVENTS)
        finally:
            await store.close()

    happened = first.faults.happened + second.faults.happened
    print(happened)  # noqa: T201 - for whoever runs it by hand
    assert happened.total() >= EVENTS / 200, "too little went wrong to prove anything"
