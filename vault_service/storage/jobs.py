"""Jobs: where each stands, and who works on it. One server at a time; the row is its lease and its memory.

A holder that loses its lease finds out in the next batch's transaction, whose update then changes no row.
"""

from typing import Final, NamedTuple

import sqlalchemy as sa

from vault_service.storage.engine import Transaction
from vault_service.storage.tables import job

_NOT_COUNTED: Final = -1
HOLD_MS: Final = 5_000  # how long a silent holder keeps a job


class JobRow(NamedTuple):
    """A job as stored. Times are ms; `finished_at` is None while it goes on."""

    order_id: str
    scope: str
    total: int
    moved: int
    failed: int
    step: str
    version: int
    position: bytes
    holder: str
    held_until: int
    started_at: int
    finished_at: int | None

    @property
    def counted(self) -> bool:
        """Whether `total` is known yet."""
        return self.total >= 0

    @property
    def stands_at(self) -> tuple[object, ...]:
        """What changes when the job gets on."""
        return self.moved, self.failed, self.step, self.version, self.position


def insert_job(tx: Transaction, order_id: str, scope: str, step: str) -> None:
    """A job that nobody holds yet."""
    row = JobRow(order_id, scope, _NOT_COUNTED, 0, 0, step, 0, b"", "", 0, tx.now_ms, None)
    tx.connection.execute(sa.insert(job), row._asdict())


def read_job(connection: sa.Connection, order_id: str) -> JobRow | None:
    """One job."""
    row = connection.execute(sa.select(job).where(job.c.order_id == order_id)).one_or_none()
    return None if row is None else JobRow(*row)


def unfinished(connection: sa.Connection) -> list[JobRow]:
    """The jobs that go on, oldest first."""
    query = sa.select(job).where(job.c.finished_at.is_(None)).order_by(job.c.started_at, job.c.order_id)
    return [JobRow(*row) for row in connection.execute(query)]


def finished_since(connection: sa.Connection, scope: str, since: int) -> list[JobRow]:
    """The jobs of a domain or an agreement that began at `since` (ms) or later and are done, oldest first."""
    query = sa.select(job).where(job.c.scope == scope, job.c.started_at >= since, job.c.finished_at.is_not(None))
    return [JobRow(*row) for row in connection.execute(query.order_by(job.c.started_at))]


def claim(tx: Transaction, row: JobRow, holder: str) -> bool:
    """Take a job, or keep it; False when another server has it."""
    free = sa.or_(job.c.holder == holder, job.c.held_until < tx.now_ms)
    claimed = (
        sa.update(job)
        .where(job.c.order_id == row.order_id, job.c.finished_at.is_(None), free)
        .values(holder=holder, held_until=tx.now_ms + HOLD_MS)
    )
    return tx.connection.execute(claimed).rowcount == 1


def advance(tx: Transaction, row: JobRow, *, finished: bool = False) -> bool:
    """Store where `row` stands now, and hold on to it; False when its holder has lost it."""
    stored = (
        sa.update(job)
        .where(job.c.order_id == row.order_id, job.c.holder == row.holder, job.c.finished_at.is_(None))
        .values(
            total=row.total,
            moved=row.moved,
            failed=row.failed,
            step=row.step,
            version=row.version,
            position=row.position,
            held_until=tx.now_ms + HOLD_MS,
            finished_at=tx.now_ms if finished else None,
        )
    )
    return tx.connection.execute(stored).rowcount == 1


def release(tx: Transaction, order_id: str, holder: str) -> None:
    """Give a job up, for another server to take at once."""
    given_up = sa.update(job).where(job.c.order_id == order_id, job.c.holder == holder).values(held_until=0)
    tx.connection.execute(given_up)
