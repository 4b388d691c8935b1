"""What the embedded broker does to its tables besides publishing and acknowledging.

Each function makes a task for the writer thread, which runs it in a transaction of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

from amends.broker.embedded_queue import COLUMNS, NO_ROW, Held, Queue, columns_of, read_message
from amends.broker.port import DeadLetter, QueueDepth
from amends.stores.sqlite.commit import Transaction
from amends.stores.sqlite.moments import from_us
from amends.stores.sqlite.schema import PLACE_BITS

#: Delayed messages that one transaction lets in when they are due.
DUE_MAX: Final = 500

_PLACE_MASK: Final = (1 << PLACE_BITS) - 1


def declare(names: Sequence[str]) -> Callable[[Transaction], None]:
    """Make sure that the queues exist."""

    def run(transaction: Transaction) -> None:
        for name in names:
            transaction.execute("INSERT OR IGNORE INTO queues (name) VALUES (?)", [name])

    return run


def begin_consuming(transaction: Transaction) -> bool:
    """Mark that messages are in somebody's hands; whether the last who did so never ended."""
    (consuming,) = transaction.execute("SELECT consuming FROM head").fetchone()
    if not consuming:
        transaction.execute("UPDATE head SET consuming = 1")
    return bool(consuming)


def end_consuming(transaction: Transaction) -> None:
    """Everything was handed back."""
    transaction.execute("UPDATE head SET consuming = 0")


def count_lost(queue: Queue, limit: int) -> Callable[[Transaction], None]:
    """After a crash: count a delivery for those messages that may have been in its hands."""

    def run(transaction: Transaction) -> None:
        transaction.execute(
            "UPDATE messages SET deliveries = deliveries + 1 WHERE seq IN "
            "(SELECT seq FROM messages WHERE seq > ? AND seq < ? ORDER BY seq LIMIT ?)",
            [queue.base, queue.ceiling, limit],
        )

    return run


def let_in_due(now: int) -> Callable[[Transaction], int]:
    """Move messages that are due behind those that are ready, earliest first; how many."""

    def run(transaction: Transaction) -> int:
        seqs, count = transaction.execute(
            "SELECT json_group_array(seq), count(*) FROM "
            "(SELECT seq FROM delayed WHERE due <= ? ORDER BY due LIMIT ?)",
            [now, DUE_MAX],
        ).fetchone()
        if not count:
            return 0
        transaction.execute(
            f"INSERT OR IGNORE INTO messages (seq, since, due, {COLUMNS}) "
            f"SELECT (seq >> {PLACE_BITS} << {PLACE_BITS}) + ? "
            f"+ row_number() OVER (ORDER BY due, seq & {_PLACE_MASK}), due, due, {COLUMNS} "
            "FROM delayed WHERE seq IN (SELECT value FROM json_each(?))",
            [transaction.n, seqs],
        )
        transaction.execute(
            "DELETE FROM delayed WHERE seq IN (SELECT value FROM json_each(?))", [seqs]
        )
        transaction.n += count
        return int(count)

    return run


def hand_back(held: Sequence[Held], now: int, *, received: bool) -> Callable[[Transaction], None]:
    """Count what was received; make rows of replies and requests, which have none.

    What was acknowledged meanwhile is gone, and stays so.
    """

    def run(transaction: Transaction) -> None:
        for item in held:
            if item.has_own_row:
                transaction.execute(
                    "UPDATE messages SET deliveries = ? WHERE seq = ?", [item.count, item.row]
                )
            elif item.row == NO_ROW or _delete(transaction, item.row):
                deliveries = item.count if received else item.count - 1
                seq = item.queue.base + transaction.take_place()
                transaction.execute(
                    f"INSERT OR IGNORE INTO messages (seq, since, deliveries, {COLUMNS}) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [seq, now, deliveries, *columns_of(item.message)],
                )

    return run


def _delete(transaction: Transaction, row: int) -> bool:
    return transaction.execute("DELETE FROM messages WHERE seq = ?", [row]).rowcount == 1


# --- dead letters


def bury(held: Held, now: int, reason: str, detail: str) -> Callable[[Transaction], None]:
    """Put a message aside, unless it is gone."""

    def run(transaction: Transaction) -> None:
        due = None
        if held.row != NO_ROW:
            (due,) = transaction.execute(
                "SELECT max(due) FROM messages WHERE seq = ?", [held.row]
            ).fetchone()
            if not _delete(transaction, held.row):
                return
        transaction.execute(
            f"INSERT INTO dead_letters (queue, due, reason, detail, died_at, deliveries, {COLUMNS})"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                held.queue.base >> PLACE_BITS,
                due if held.origin is None else None,
                reason,
                detail,
                now,
                held.count,
                *columns_of(held.message),
            ],
        )

    return run


SELECT_DEAD: Final = (
    f"SELECT name, due, {COLUMNS.replace('id', 'd.id', 1)}, reason, detail, died_at, deliveries "
    "FROM dead_letters d JOIN queues q ON q.id = d.queue "
    "WHERE ?1 IS NULL OR name = ?1 ORDER BY number LIMIT ?2"
)


def read_dead(row: Sequence[Any]) -> DeadLetter:
    """The dead letter of a row of `SELECT_DEAD`."""
    *message, reason, detail, died_at, deliveries = row
    return DeadLetter(read_message(*message), reason, detail, from_us(died_at), deliveries)


def redrive(ids: Sequence[UUID], now: int) -> Callable[[Transaction], int]:
    """Put dead letters back into their queues, as if never delivered; how many."""

    def run(transaction: Transaction) -> int:
        numbers = _dead_numbers(transaction, ids)
        for number in numbers:
            transaction.execute(
                f"INSERT OR IGNORE INTO messages (seq, since, due, {COLUMNS}) "
                f"SELECT (queue << {PLACE_BITS}) + ?, ?, due, {COLUMNS} "
                "FROM dead_letters WHERE number = ?",
                [transaction.take_place(), now, number],
            )
            transaction.execute("DELETE FROM dead_letters WHERE number = ?", [number])
        return len(numbers)

    return run


def discard(ids: Sequence[UUID]) -> Callable[[Transaction], int]:
    """Delete dead letters; how many."""

    def run(transaction: Transaction) -> int:
        numbers = _dead_numbers(transaction, ids)
        for number in numbers:
            transaction.execute("DELETE FROM dead_letters WHERE number = ?", [number])
        return len(numbers)

    return run


def _dead_numbers(transaction: Transaction, ids: Sequence[UUID]) -> list[int]:
    found = (
        transaction.execute("SELECT number FROM dead_letters WHERE id = ?", [id.bytes]).fetchall()
        for id in ids
    )
    return sorted({number for rows in found for (number,) in rows})


# --- depths

#: Per queue: ready, since when the first is, and dead. Reads the tables' own order, no bodies of
#: what is delayed.
_READY: Final = f"""
SELECT name,
    (SELECT count(*) FROM messages WHERE seq > q.id << {PLACE_BITS}
        AND seq < (q.id + 1) << {PLACE_BITS}),
    (SELECT since FROM messages WHERE seq > q.id << {PLACE_BITS}
        AND seq < (q.id + 1) << {PLACE_BITS} ORDER BY seq LIMIT 1),
    (SELECT count(*) FROM dead_letters WHERE queue = q.id)
FROM queues q ORDER BY name
"""
_DELAYED: Final = (
    "SELECT name, due <= ?, count(*), min(due) FROM delayed INDEXED BY delayed_by_due "
    f"JOIN queues q ON q.id = seq >> {PLACE_BITS} GROUP BY 1, 2"
)
DEPTH_QUERIES: Final = (_READY, _DELAYED)


def read_depths(ready: Sequence[Any], delayed: Sequence[Any]) -> list[QueueDepth]:
    """The depths, from the rows of both `DEPTH_QUERIES`."""
    waiting = {(name, bool(due)): (count, first) for name, due, count, first in delayed}
    depths = []
    for name, count, since, dead in ready:
        due_count, due_since = waiting.get((name, True), (0, None))
        later_count, _ = waiting.get((name, False), (0, None))
        oldest = min((at for at in (since, due_since) if at is not None), default=None)
        depths.append(
            QueueDepth(
                queue=name,
                ready=count + due_count,
                delayed=later_count,
                dead=dead,
                oldest=None if oldest is None else from_us(oldest),
            )
        )
    return depths
