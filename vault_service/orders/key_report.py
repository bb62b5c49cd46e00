"""What `keys status` says: every key version, where it stands, and what is wrong with it in plain words.

The control state, counts from the database and the clock come in; lines go out. Nothing is looked up here.
"""

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from vault_service.keys.encryptions import MOST_ENCRYPTIONS
from vault_service.keys.names import KeyKind, KeyName
from vault_service.orders.key_state import LIVE, KeyVersion, Stage
from vault_service.orders.state import ControlState

_DAY_MS: Final = 24 * 3600 * 1000
_LOADING_MS: Final = 3600 * 1000  # a version that loads for longer was forgotten
_NEARLY: Final = 0.8  # of the encryptions that are allowed


class Periods(NamedTuple):
    """Cryptoperiods."""

    data_days: float
    index_days: float
    wrapping_days: float


class KeyLine(NamedTuple):
    """One key version. `encryptions` is an upper bound, None for keys that encrypt nothing."""

    scope: str
    kind: str
    version: int
    state: str
    age_days: int
    cryptoperiod_days: float
    records: int
    encryptions: int | None
    wrapping_key: str
    wrapped_days: int
    problems: tuple[str, ...]


def key_lines(
    state: ControlState,
    records: Mapping[KeyName, int],
    encryptions: Mapping[tuple[str, int], int],
    undeleted: Collection[KeyName],
    unopened: Collection[KeyName],
    periods: Periods,
    now_ms: int,
) -> list[KeyLine]:
    """A line a version, sorted. `undeleted` are destroyed versions whose wrapping key is still in Vault, `unopened`
    versions in use that Vault does not open.
    """
    lines = []
    for name in sorted({version.name for versions in state.keys.values() for version in versions} | set(records)):
        version = state.version(name)
        used = encryptions.get((name.scope, name.version), 0) if name.kind is KeyKind.DATA else None
        scope, rows = scope_option(state, name.scope), records.get(name, 0)
        problems = _problems(scope, name, version, rows, used or 0, periods, now_ms)
        if name in unopened:
            problems.insert(0, _lost(scope, name))
        if name in undeleted:
            problems.append(
                "it is destroyed for the service, but Vault still has its wrapping key: "
                f"ssn-vault keys destroy {arguments(state, name)} --confirm {confirmation(name)}"
            )
        lines.append(
            KeyLine(
                name.scope,
                name.kind.value,
                name.version,
                version.stage.value if version else "unknown",
                (now_ms - version.since) // _DAY_MS if version else 0,
                periods.data_days if name.kind is KeyKind.DATA else periods.index_days,
                rows,
                used,
                name.transit,
                (now_ms - version.wrapped_at) // _DAY_MS if version else 0,
                tuple(problems),
            )
        )
    return lines


def _lost(scope: str, name: KeyName) -> str:
    return (
        f"Vault does not open it any more: the wrapping key {name.transit} was deleted, or is another one now. Servers "
        "serve it from memory until their leases end (keys.lease_seconds); do not restart them. Restore the key at "
        f"Vault: transit/keys/{name.transit}/soft-delete-restore where it was only taken out of service, else a "
        f"snapshot. Meanwhile its rows can be moved to a new key: ssn-vault keys rotate --kind {name.kind} {scope}, "
        f"then ssn-vault keys reencrypt {scope}"
    )


def scope_option(state: ControlState, scope: str) -> str:
    """The option of a command that names a domain or an agreement."""
    return f"--{'agreement' if scope in state.first_domains else 'domain'} {scope}"


def arguments(state: ControlState, name: KeyName) -> str:
    """The options of a command that name a version."""
    return f"--kind {name.kind} {scope_option(state, name.scope)} --version {name.version}"


def confirmation(name: KeyName) -> str:
    """What has to be typed before this version is destroyed."""
    return f"{name.scope}/{name.kind}/{name.version}"


def _problems(
    scope: str, name: KeyName, version: KeyVersion | None, records: int, used: int, periods: Periods, now: int
) -> list[str]:
    problems = []
    if records and (version is None or version.stage not in LIVE):
        problems.append(
            f"{records} rows use it although it is {version.stage if version else 'no key of ours'}: they cannot be "
            "opened or found; was an older backup of the database restored?"
        )
    if version is None:
        return problems
    rotate = f"ssn-vault keys rotate --kind {name.kind} {scope}"
    period = periods.data_days if name.kind is KeyKind.DATA else periods.index_days
    if version.stage in LIVE and now - version.since > period * _DAY_MS:
        what = rotate if version.stage is Stage.ACTIVE else f"ssn-vault keys reencrypt {scope}"
        problems.append(f"it has been used for longer than its cryptoperiod of {period:g} days: {what}")
    if version.stage in LIVE and now - version.wrapped_at > periods.wrapping_days * _DAY_MS:
        problems.append(
            f"its wrapping key has not been rotated for {periods.wrapping_days:g} days: "
            f"ssn-vault keys rotate --kind wrapping {scope}"
        )
    if version.stage in LIVE and used > _NEARLY * MOST_ENCRYPTIONS:
        problems.append(
            f"it has made {used:,} of the {MOST_ENCRYPTIONS:,} encryptions that one key may make: {rotate} "
            "before it stops"
        )
    if version.stage is Stage.LOADING and now - version.since > _LOADING_MS:
        problems.append(f"it was made but never became active: {rotate} goes on with it")
    return problems
