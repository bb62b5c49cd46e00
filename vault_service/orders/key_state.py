"""Key versions in the control state: how signed orders carry each from its making to its destruction.

    keys.create -> LOADING -> keys.activate -> ACTIVE -> (the next one is activated) -> OLD
                -> keys.retire -> RETIRED -> keys.destroy -> DESTROYED

Pure: a mapping of versions and an order's arguments come in, the changed mapping goes out, or
OrderRefusedError says why not. What needs Vault or the database (does it unwrap, have all servers loaded it,
does a row use it) is asked in `processor` before the order is put in force.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from vault_service.errors import OrderRefusedError
from vault_service.keys.names import KeyKind, KeyName

_WRAPPED: Final = re.compile(r"vault:v[0-9]+:[A-Za-z0-9+/=]{20,500}")


class Stage(StrEnum):
    """Where a key version stands in its life."""

    LOADING = "loading"  # servers fetch it; nothing uses it yet
    ACTIVE = "active"  # new rows use it
    OLD = "old"  # opens and finds rows that are not moved yet
    RETIRED = "retired"  # no row uses it; servers have dropped it; Vault could still unwrap it
    DESTROYED = "destroyed"  # its wrapping key is to be deleted, or is


IN_USE: Final = frozenset({Stage.LOADING, Stage.ACTIVE, Stage.OLD})  # servers hold these in memory
LIVE: Final = frozenset({Stage.ACTIVE, Stage.OLD})  # rows can be under these


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """One version of a key, wrapped under its own transit key. Times are ms, 0 for what has not happened."""

    name: KeyName
    wrapped: str = field(repr=False)
    stage: Stage
    epoch: int  # of the control log, from which on it is known
    since: int  # made
    wrapped_at: int  # last wrapped anew
    active_until: int = 0
    retired_at: int = 0
    destroyed_at: int = 0


Versions = Mapping[tuple[str, KeyKind], tuple[KeyVersion, ...]]


def created(versions: Versions, name: KeyName, wrapped: str, epoch: int, now: int) -> Versions:
    """A new version is there: the first one active at once, a later one loading."""
    present = versions.get((name.scope, name.kind), ())
    if name.version != (present[-1].name.version + 1 if present else 1):
        raise OrderRefusedError("that is not the key's next version")
    if any(version.stage is Stage.LOADING for version in present):
        raise OrderRefusedError("the version before it is not active yet")
    _check_wrapped(wrapped)
    stage = Stage.LOADING if present else Stage.ACTIVE
    added = KeyVersion(name, wrapped, stage, epoch, now, now)
    return {**versions, (name.scope, name.kind): (*present, added)}


def activated(versions: Versions, name: KeyName, now: int) -> Versions:
    """The version takes over; the one before it opens old rows."""

    def change(version: KeyVersion) -> KeyVersion:
        if version.name == name:
            return replace(version, stage=Stage.ACTIVE)
        if version.stage is Stage.ACTIVE:
            return replace(version, stage=Stage.OLD, active_until=now)
        return version

    return _changed(versions, name, {Stage.LOADING}, change, "only a version that is loading can be made active")


def rewrapped(versions: Versions, name: KeyName, wrapped: str, now: int) -> Versions:
    """The same key, wrapped under a newer version of its transit key."""
    _check_wrapped(wrapped)

    def change(version: KeyVersion) -> KeyVersion:
        return replace(version, wrapped=wrapped, wrapped_at=now) if version.name == name else version

    return _changed(versions, name, IN_USE, change, "only a version in use can be wrapped anew")


def retired(versions: Versions, name: KeyName, now: int) -> Versions:
    """Servers drop the version. One that never became active can be given up this way."""

    def change(version: KeyVersion) -> KeyVersion:
        return replace(version, stage=Stage.RETIRED, retired_at=now) if version.name == name else version

    return _changed(versions, name, {Stage.OLD, Stage.LOADING}, change, "only an old version can be retired")


def destroyed(versions: Versions, name: KeyName, now: int) -> Versions:
    """The version's transit key may be deleted: no server will ever ask for it again."""

    def change(version: KeyVersion) -> KeyVersion:
        if version.name != name:
            return version
        return replace(version, stage=Stage.DESTROYED, wrapped="", destroyed_at=now)

    return _changed(versions, name, {Stage.RETIRED}, change, "only a retired version can be destroyed")


def _changed(
    versions: Versions,
    name: KeyName,
    stages: "frozenset[Stage] | set[Stage]",
    change: Callable[[KeyVersion], KeyVersion],
    refusal: str,
) -> Versions:
    present = versions.get((name.scope, name.kind), ())
    if not any(version.name == name and version.stage in stages for version in present):
        raise OrderRefusedError(refusal)
    return {**versions, (name.scope, name.kind): tuple(map(change, present))}


def _check_wrapped(wrapped: str) -> None:
    if not _WRAPPED.fullmatch(wrapped):
        raise OrderRefusedError("that is not a wrapped key")
