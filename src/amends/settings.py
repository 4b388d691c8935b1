"""Settings: from the environment (`AMENDS_…`) or given in code."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from amends.errors import UsageError


class Settings(BaseSettings):
    """Where an application runs, and its bounds. Everything has a default."""

    model_config = SettingsConfigDict(env_prefix="AMENDS_", frozen=True, extra="forbid")

    store: str = "sqlite:///amends.db"
    """`sqlite:///relative.db`, `sqlite:////absolute.db`, or `memory://` for tests."""

    broker: str = "embedded"
    """`embedded`: in the store's own file."""

    partitions: Annotated[int, Field(ge=1, le=1024)] = 1
    """Inboxes, for brokers that spread over processes; with the embedded broker there is one.
    Fixed for the life of a deployment's data.
    """

    concurrency: Annotated[int, Field(ge=1)] = 100
    """Attempts that run at once for each activity queue, unless the application says otherwise."""

    cache_max: Annotated[int, Field(ge=0)] = 4096
    """Saga instances kept live in memory, some 8 KB each and what the saga's own variables take;
    one that waits for many things at once counts for several.
    """

    cache_wait_s_per_event: Annotated[float, Field(ge=0)] = 10.0
    """An instance that waits only for a timer is not kept live when the timer is due in more than
    so many seconds for each event of its journal: reading it back then costs less than keeping it.
    """

    inbox_limit: Annotated[int, Field(ge=1)] = 1000
    """Messages in hand for each inbox."""

    busy_timeout_s: Annotated[float, Field(gt=0)] = 5.0
    """How long to wait for a database that another process has locked."""

    retention_days: Annotated[float, Field(ge=1 / 24)] | None = None
    """How many days after its end the engine removes the journal of an instance, FOR GOOD: its
    history, the domain events that it emitted, and the protection from starting its id again.
    None (the default) keeps journals for ever.
    """

    shutdown_grace_s: Annotated[float, Field(ge=0)] = 30.0
    """How long running activities may take to finish when the engine is told to stop."""

    calm_gc: bool = True
    """While an engine runs, let Python's garbage collector look less often, and leave out what was
    there before. For the whole process; false leaves it alone.
    """

    @classmethod
    def of(cls, where: str | Path | Settings | None) -> Settings:
        """Settings from what `App.run` and `App.client` take: a file's path, a store's address,
        whole settings, or None for the environment's.
        """
        if isinstance(where, Settings):
            return where
        if where is None:
            return cls()
        text = str(where)
        return cls(store=text if "://" in text else f"sqlite:///{text}")

    @property
    def retention(self) -> timedelta | None:
        """How long the journal of an instance is kept after its end; None for ever."""
        return None if self.retention_days is None else timedelta(days=self.retention_days)

    @property
    def sqlite_path(self) -> Path:
        """The file of the embedded store. Raises UsageError when the store is another."""
        prefix = "sqlite:///"
        if not self.store.startswith(prefix) or self.store == prefix:
            raise UsageError(
                f"AMENDS_STORE={self.store!r}: use sqlite:///file.db (or sqlite:////path/file.db)"
            )
        return Path(self.store.removeprefix(prefix))
