"""What kills a worker at a call of its own must do so: a test that waits for its death has no end else."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.ledger import Ledger, Void


class Killed(BaseException):
    pass


@pytest.fixture
def ledger(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Ledger]:
    path = str(tmp_path / "ledger.db")
    Ledger.create(path).close()
    ledger = Ledger(path, request.param)
    yield ledger
    ledger.close()


@pytest.fixture(autouse=True)
def kills(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(pid: int, number: int) -> None:
        assert (pid, number) == (os.getpid(), signal.SIGKILL)
        raise Killed

    monkeypatch.setattr(os, "kill", kill)


@pytest.mark.parametrize(
    ("ledger", "is_booked"),
    [("2 before", False), ("2 amid", False), ("2 after", True)],
    indirect=["ledger"],
)
def test_a_fuse_burns_at_its_call_and_its_place(ledger: Ledger, is_booked: bool) -> None:
    ledger.book("one", 1, "a1", 1)
    with pytest.raises(Killed):
        ledger.book("two", 1, "a1", 1)
    assert ("two" in {entry.key for entry in ledger.entries()}) == is_booked
    assert len(ledger.calls()) == 2


@pytest.mark.parametrize("ledger", ["1 amid", "1 after"], indirect=True)
def test_a_call_that_comes_to_nothing_burns_it_too(ledger: Ledger) -> None:
    assert not ledger.is_booked("one")
    with pytest.raises(Killed) as killed:
        ledger.book("one", 1, "a1", 1)
    assert isinstance(killed.value.__context__, Void)


@pytest.mark.parametrize("ledger", ["1 after"], indirect=True)
def test_whoever_calls_meanwhile_does_not_keep_it_from_burning(ledger: Ledger) -> None:
    """Another thread begins when the first has booked, and is not over yet."""
    with pytest.raises(Killed), ledger._called("one", 1):
        ledger._fuse.next_call()
