"""The worst day of a domain: somebody else may have its keys. From that to new keys, and a report in writing.

The report is begun first: it names the versions that count as exposed, so that the same command, after an
interruption, goes on with exactly these. Every step looks at what is there.
"""

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from vault_service.cli.common import Exit, console, stop
from vault_service.cli.key_work import KeyWork
from vault_service.errors import ConfigurationError
from vault_service.files import new_file, read_own_file, replace_file
from vault_service.keys.names import KeyKind, KeyName
from vault_service.orders.key_report import confirmation
from vault_service.orders.key_state import KeyVersion, Stage
from vault_service.storage.jobs import JobRow, finished_since
from vault_service.storage.rotation import damaged_rows

_KINDS: Final = (KeyKind.DATA, KeyKind.INDEX)
_BEGUN: Final = "This report is not finished: type the same command again."
_ROW: Final = re.compile(r"^\| ([a-z0-9]+)/(data|index)/([0-9]+) \|", re.MULTILINE)


def respond(work: KeyWork, domain: str, rows_per_second: int, report: Path) -> None:
    """Replace both keys of a domain, move its rows, retire and destroy what was, and write down what was exposed."""
    exposed = _exposed(work, domain, report)
    for name in exposed:
        found = work.one.state().version(name)
        if found is not None and found.stage is Stage.LOADING:  # else the rotation would go on with it
            work.retire(name)
    for kind in _KINDS:
        if work.one.state().live(domain, kind)[-1].name in exposed:
            work.rotate(domain, kind)
    work.reencrypt(domain, rows_per_second)
    for name in exposed:
        found = work.one.state().version(name)
        if found is not None and found.stage is Stage.OLD:
            work.retire(name)
        work.destroy(name)
    state = work.one.state()
    versions = [version for name in exposed if (version := state.version(name)) is not None]
    begun = min(state.live(domain, kind)[-1].since for kind in _KINDS)
    with work.one.store.reading() as connection:
        jobs = finished_since(connection, domain, begun)  # more than one after an interruption
        aside = sum(row.scope == domain and row.set_aside is not None for row in damaged_rows(connection))
    agreements = [name for name, one in state.policy.agreements.items() if domain in one.parties]
    replace_file(report, _text(domain, versions, jobs, aside, sorted(agreements)).encode())
    console.print(f"the report is in {report}", markup=False)


def _exposed(work: KeyWork, domain: str, report: Path) -> list[KeyName]:
    """Every version that is not destroyed; of an unfinished report, those that it names."""
    try:
        text = read_own_file(report)
    except (OSError, ValueError):
        raise ConfigurationError("--report names something that is no report of yours: name another file") from None
    if text is not None:
        named = [KeyName(scope, KeyKind(kind), int(version)) for scope, kind, version in _ROW.findall(text)]
        if _BEGUN not in text or {name.scope for name in named} != {domain}:
            stop(Exit.USAGE, f"{report} exists already: name another file with --report")
        console.print(f"going on with what {report} began", markup=False)
        return named
    state = work.one.state()
    versions = [v for kind in _KINDS for v in state.versions(domain, kind) if v.stage is not Stage.DESTROYED]
    rows = "\n".join(_row(version) for version in versions)
    with new_file(report, "--report") as out:
        out.write(f"# Keys of {domain}: compromised\n\n{_BEGUN}\n\n{rows}\n")
    return [version.name for version in versions]


def _text(domain: str, exposed: list[KeyVersion], jobs: list[JobRow], aside: int, agreements: list[str]) -> str:
    lines = [
        f"# Keys of {domain}: compromised and replaced",
        "",
        f"Written {_time(time.time_ns() // 1_000_000)}.",
        "",
        "## What was exposed, and since when",
        "",
        "Whoever had one of these data keys together with a copy of the database, or of a backup, could read the",
        "numbers of the rows that were under it. Whoever had an index key could test which of these rows belongs to",
        "a given number.",
        "",
        "| key version | in use since | in use until | destroyed |",
        "|---|---|---|---|",
        *(_row(version) for version in exposed),
        "",
        f"Rows that were moved to new keys: {sum(job.moved for job in jobs):,} "
        f"(from {_time(jobs[0].started_at)} to {_time(jobs[-1].finished_at)}).",
        f"Rows that did not open, were not moved and were set aside by two people: {aside:,}.",
        "",
        "## What holds now",
        "",
        "- Every row is under new keys, which never were outside Vault and the memory of the servers.",
        "- The wrapping keys of the versions above are deleted: a backup made before can no longer be opened with",
        "  Vault. It can be with a key that was taken in the clear, which is why the rows count as exposed.",
        "- Tokens and linkage ids are unchanged.",
        "",
        "## What is left to do",
        "",
        f"- Whom to notify: every token of {domain} that had a row before {_time(jobs[0].started_at)}.",
        f"- Who was given a number meanwhile: ssn-vault audit disclosures, and incident report for {domain}.",
        *(f"- Agreement {name} has a key of its own: rotate it too if it was exposed." for name in agreements),
        "- Vault's snapshots hold the deleted wrapping keys until they expire: delete them.",
        "",
    ]
    return "\n".join(lines)


def _row(version: KeyVersion) -> str:
    cells = [_time(version.since), _time(version.active_until), _time(version.destroyed_at)]
    return f"| {confirmation(version.name)} | {' | '.join(cells)} |"


def _time(ms: int | None) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if ms else "not yet"
