"""The benchmark of the store runs, and what it checks holds."""

import asyncio
import json

import pytest

from benchmarks import eventstoredb


def test_it_measures(capsys: pytest.CaptureFixture[str], esdb: str) -> None:
    asyncio.run(eventstoredb.run(esdb, scale=0.005, repeats=1))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[:1] == "{"]
    assert len(rows) == 7
    assert all(row["cpu_ms"] > 0 and row["per_cpu_s"] > 0 for row in rows)
