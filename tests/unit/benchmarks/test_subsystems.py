"""Whose time it is: by the path of a function, and by its callers for what is written in C."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks.subsystems import shares, subsystem

ENGINE = ("/home/me/src/amends/sagas/turn.py", 1, "take")
CLIENT = ("/home/me/.venv/lib/python3.11/site-packages/aiormq/channel.py", 9, "basic_publish")
SOCKET = ("~", 0, "<method 'send' of '_socket.socket' objects>")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (ENGINE[0], "amends/sagas"),
        (CLIENT[0], "aiormq"),
        ("/x/src/amends/broker/rabbitmq/wire.py", "amends/broker/rabbitmq/wire"),
        ("/x/src/amends/broker/embedded.py", "amends/broker"),
        ("/x/src/amends/stores/sqlite/batch.py", "amends/stores/sqlite"),
        ("/x/src/amends/client.py", "amends/client"),
        ("/usr/lib/python3.11/asyncio/events.py", "asyncio"),
        ("/x/benchmarks/sagas.py", "benchmarks"),
        ("~", "C"),
        ("<string>", "other"),
    ],
)
def test_a_file_belongs_to_a_subsystem(path: str, name: str) -> None:
    assert subsystem(path) == name


def test_what_is_written_in_c_counts_for_its_callers() -> None:
    stats = SimpleNamespace(
        stats={
            ENGINE: (1, 1, 0.2, 9.0, {}),
            CLIENT: (1, 1, 0.5, 9.0, {ENGINE: (1, 1, 0.5, 9.0)}),
            SOCKET: (3, 3, 0.3, 0.3, {CLIENT: (2, 2, 0.25, 0.25), ENGINE: (1, 1, 0.05, 0.05)}),
        }
    )
    (client, client_s, of_all), (engine, engine_s, _) = shares(stats)
    assert (client, engine) == ("aiormq", "amends/sagas")
    assert (client_s, engine_s, of_all) == pytest.approx((0.75, 0.25, 0.75))
