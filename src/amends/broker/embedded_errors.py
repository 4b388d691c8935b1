"""What the embedded database refuses, said in the words of the broker's port."""

from __future__ import annotations

from amends.errors import BrokerClosed, BrokerUnavailable, StoreClosed, StoreError


class broker_words:  # noqa: N801 - used like a function
    """A context in which the store's errors become the broker's."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, StoreClosed):
            raise BrokerClosed(str(error)) from error
        if isinstance(error, StoreError):
            raise BrokerUnavailable(str(error)) from error
