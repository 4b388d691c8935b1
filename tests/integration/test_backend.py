"""The composition root: what it refuses to open."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from amends import App, Settings, UsageError


@pytest.mark.parametrize("how", [App.run, App.client])
def test_an_embedded_file_has_one_inbox(tmp_path: Path, how: Any) -> None:
    """An engine that is told of fewer later on would leave the others' messages where they are."""
    settings = Settings(store=f"sqlite:///{tmp_path / 'a.db'}", partitions=3)

    async def opens() -> None:
        async with how(App(), settings):
            pass

    with pytest.raises(UsageError, match="AMENDS_PARTITIONS=3"):
        asyncio.run(opens())
    assert list(tmp_path.iterdir()) == []
