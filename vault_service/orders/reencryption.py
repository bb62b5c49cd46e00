"""Re-encryption: moves the rows of a domain or an agreement to the active key versions, a batch at a time.

How promise 4 (one token a number) holds while an index is rotated:

- A new version is only known at first (LOADING). It becomes active when every server that runs has loaded it,
  and by an order in force: every transaction reads the epoch first, so that none writes under the old version
  after any has written under the new one (section 7 of the design; `Store.transaction`).
- From then on every look-up asks under all live versions in one statement. A row moves from an old version to
  the active one in one update, so that a statement sees it in one of the two places, never in none or both.
- New rows go under the active version, where the unique index catches racing inserts, also against a row
  that is just being moved there.

A batch changes nothing but keys: tokens, numbers and traits stay. It can be cut off anywhere and done again.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from vault_service.errors import OrderRefusedError, StoreError
from vault_service.keys.encryptions import EncryptionMeter
from vault_service.keys.envelope import (
    DoesNotOpenError,
    Payload,
    Place,
    index_maker,
    open_list,
    open_sealed,
    seal,
    seal_list,
)
from vault_service.keys.names import KeyKind, KeyName
from vault_service.orders.keys import Keys
from vault_service.orders.state import ControlState
from vault_service.ssn import Ssn
from vault_service.storage import rotation as rows
from vault_service.storage.engine import Transaction
from vault_service.storage.jobs import JobRow
from vault_service.storage.records import fetch_payloads
from vault_service.storage.rotation import MovedRecord, OldRecord
from vault_service.tokens import Token

RECORDS: Final = "records"  # a domain: its token records
IDS: Final = "linkage ids"  # an agreement: its linkage ids, found through the records of its first domain
LISTS: Final = "linkage lists"  # an agreement: the sealed lists of tokens that were asked about


class Progress(NamedTuple):
    """Where a job stands after a batch, and how many rows it looked at."""

    row: JobRow
    walked: int
    finished: bool


def first_step(state: ControlState, scope: str) -> str:
    """What a job begins with."""
    return IDS if scope in state.first_domains else RECORDS


def count_rows(tx: Transaction, keys: Keys, row: JobRow) -> JobRow:
    """The job with its total: rows that are not under the active versions."""
    data = 0 if row.scope in keys.state.first_domains else keys.active(row.scope, KeyKind.DATA).version
    index = keys.active(row.scope, KeyKind.INDEX).version
    return row._replace(total=rows.rows_behind(tx.connection, row.scope, data, index))


def move_batch(tx: Transaction, keys: Keys, meter: EncryptionMeter, row: JobRow, limit: int) -> Progress:
    """Do the next `limit` rows of a job. KEYS_UNAVAILABLE when a key is not there: nothing is changed then."""
    if row.step == RECORDS:
        return _move_records(tx, keys, meter, row, limit)
    if row.step == IDS:
        return _move_linkage_ids(tx, keys, row, limit)
    return _move_lists(tx, keys, row, limit)


def _move_records(tx: Transaction, keys: Keys, meter: EncryptionMeter, row: JobRow, limit: int) -> Progress:
    domain = row.scope
    data, index = keys.active(domain, KeyKind.DATA), keys.active(domain, KeyKind.INDEX)
    version, position = _walk_from(keys, domain, row)
    meter.take(tx, domain, data.version, limit)
    found = rows.walk_records(tx, domain, version, position, limit, lock=True)
    make_index = index_maker(index.secret)
    moved: list[MovedRecord] = []
    damaged: list[str] = []
    for record in found:
        if record.data_version == data.version and version == index.version:
            continue
        payload = _opened(keys, domain, record)
        if payload is None:
            damaged.append(record.token)
            continue
        at = record.blind_index if version == index.version else make_index(payload.ssn)
        place = Place(domain, data.version, record.token, at)
        sealed = seal(data.cipher, place, ssn=payload.ssn, traits=payload.traits)
        moved.append(MovedRecord(record.token, record.blind_index, at, sealed))
    if rows.move_records(tx, index.version, data.version, moved) != len(moved):
        raise StoreError("records were changed while they were locked: the batch is begun again")
    rows.note_damaged(tx, domain, damaged)
    row = row._replace(moved=row.moved + len(moved), failed=row.failed + len(damaged))

    def finish(left: JobRow) -> Progress:
        rows.forget_mended(tx, domain, data.version, index.version)
        return Progress(left, len(found), finished=True)

    return _walked(keys, domain, row, version, found, limit, finish)


def _move_linkage_ids(tx: Transaction, keys: Keys, row: JobRow, limit: int) -> Progress:
    """Linkage ids hold no number: those of the first domain's records tell under which index each is, and will be.

    What is left under old versions in the end belongs to numbers that the domain no longer holds: it goes too.
    """
    agreement = row.scope
    domain = keys.state.first_domains[agreement]
    active, *older = keys.live(agreement, KeyKind.INDEX)
    version, position = _walk_from(keys, domain, row)
    found = rows.walk_records(tx, domain, version, position, limit, lock=False)
    numbers: list[Ssn] = []
    damaged: list[str] = []
    for record in found:
        payload = _opened(keys, domain, record)
        if payload is None:
            damaged.append(record.token)
        else:
            numbers.append(payload.ssn)
    moved = 0
    make_new = index_maker(active.secret)
    for key in older:
        make_old = index_maker(key.secret)
        old = {make_old(ssn): ssn for ssn in numbers}
        there = rows.find_old_linkage_ids(tx, agreement, active.version, list(old))
        moved += rows.move_linkage_ids(tx, agreement, active.version, {at: make_new(old[at]) for at in there})
    rows.note_damaged(tx, domain, damaged)
    row = row._replace(moved=row.moved + moved, failed=row.failed + len(damaged))

    def finish(left: JobRow) -> Progress:
        if not left.failed:
            dropped = rows.drop_old_linkage_ids(tx, agreement, active.version)
            left = left._replace(moved=left.moved + dropped)
        return Progress(left._replace(step=LISTS, version=0, position=b""), len(found), finished=False)

    return _walked(keys, domain, row, version, found, limit, finish)


def _move_lists(tx: Transaction, keys: Keys, row: JobRow, limit: int) -> Progress:
    agreement = row.scope
    active = keys.active(agreement, KeyKind.INDEX)
    found = rows.walk_linkage_records(tx, agreement, active.version, row.position.decode(), limit)
    sealed: dict[str, bytes] = {}
    for event_id, version, ciphertext in found:
        lines = _opened_list(keys, agreement, event_id, version, ciphertext)
        if lines is not None:
            sealed[event_id] = seal_list(active.secret, agreement, event_id, lines)
    rows.note_damaged(tx, agreement, [event_id for event_id, _, _ in found if event_id not in sealed])
    if rows.move_linkage_records(tx, active.version, sealed) != len(sealed):
        raise StoreError("another server moved these lists: the batch is begun again")
    row = row._replace(
        moved=row.moved + len(sealed),
        failed=row.failed + len(found) - len(sealed),
        position=found[-1][0].encode() if found else row.position,
    )
    return Progress(row, len(found), finished=len(found) < limit)


def set_aside(tx: Transaction, keys: Keys, scope: str, names: Sequence[str], order_id: str) -> None:
    """Take rows that do not open out of what keeps a key version in use, and leave their bytes as they are.

    OrderRefusedError when one of them is not there, or opens: it can be re-encrypted, and must not be given up.
    """
    lists = scope in keys.state.first_domains
    if lists:
        there = rows.lists_of(tx.connection, scope, names)
        good = [name for name, found in there.items() if _opened_list(keys, scope, name, *found) is not None]
    else:
        stored = fetch_payloads(tx, scope, [Token(name) for name in names])
        old = [OldRecord(token, p.blind_index, p.data_version, p.ciphertext) for token, p in stored.items()]
        there = {record.token: (record.data_version, record.ciphertext) for record in old}
        good = [record.token for record in old if _opened(keys, scope, record) is not None]
    if missing := sorted(set(names) - there.keys()):
        raise OrderRefusedError(f"there is no such row: {missing[0]}")
    if good:
        raise OrderRefusedError(f"this row opens, and is not set aside: {min(good)}")
    rows.set_aside(tx, scope, names, order_id, lists=lists)


def _opened_list(keys: Keys, agreement: str, event_id: str, version: int, ciphertext: bytes) -> str | None:
    """The lines of a sealed list; None when it does not open."""
    key = keys.of(KeyName(agreement, KeyKind.INDEX, version))
    if key is None:
        return None
    try:
        return open_list(key.secret, agreement, event_id, ciphertext)
    except DoesNotOpenError:
        return None


def _opened(keys: Keys, domain: str, record: OldRecord) -> Payload | None:
    """What a record keeps; None when it does not open."""
    key = keys.of(KeyName(domain, KeyKind.DATA, record.data_version))
    if key is None:
        return None
    try:
        place = Place(domain, record.data_version, record.token, record.blind_index)
        return open_sealed(key.cipher, record.ciphertext, place)
    except DoesNotOpenError:
        return None


def _walk_from(keys: Keys, domain: str, row: JobRow) -> tuple[int, bytes]:
    """Which index version is walked, and from where: the oldest first."""
    versions = sorted(key.version for key in keys.live(domain, KeyKind.INDEX))
    return (row.version, row.position) if row.version in versions else (versions[0], b"")


def _walked(
    keys: Keys,
    domain: str,
    row: JobRow,
    version: int,
    found: list[OldRecord],
    limit: int,
    finish: Callable[[JobRow], Progress],
) -> Progress:
    """On to the next records, the next index version, or what `finish` says."""
    if len(found) == limit:
        row = row._replace(version=version, position=found[-1].blind_index)
        return Progress(row, len(found), finished=False)
    later = sorted(key.version for key in keys.live(domain, KeyKind.INDEX) if key.version > version)
    if later:
        return Progress(row._replace(version=later[0], position=b""), len(found), finished=False)
    return finish(row)
