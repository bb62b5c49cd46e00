"""What works now, as the database shows it: servers that write, the log that is sealed, sinks that acknowledge.

Pure: rows and clocks come in, findings go out. A server says every second that it is there by a committed write; so
a server that is heard of can commit. What only a server knows (its log stream, keys in memory) is on its /readyz.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vault_service.audit.checkpoint import CLOCK_MS
from vault_service.cli.common import Exit
from vault_service.storage.log import CheckpointRow, SinkRow
from vault_service.storage.replicas import LAPSE_MS, ReplicaRow

_WORST_LAST: Final = (Exit.DONE, Exit.OVERDUE, Exit.AWAY)


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of the service: how it is, in words, and the exit status that it deserves."""

    part: str
    text: str
    status: Exit = Exit.DONE


def worst(findings: Sequence[Finding]) -> Exit:
    """The exit status of all together."""
    return max((finding.status for finding in findings), key=_WORST_LAST.index, default=Exit.DONE)


def of_servers(servers: Sequence[ReplicaRow], epoch: int, now_ms: int) -> Finding:
    """Which servers run; `servers` are all that the database remembers."""
    alive = [server for server in servers if now_ms - server.seen_at < LAPSE_MS]
    if not alive:
        last = max((server.seen_at for server in servers), default=None)
        since = "none was seen in the last day" if last is None else f"the last one was seen {_ago(now_ms - last)}"
        return Finding("servers", f"no server is running: {since}", Exit.AWAY)
    behind = sum(server.epoch < epoch for server in alive)
    text = f"{len(alive)} running, last heard of {_ago(now_ms - max(server.seen_at for server in alive))}"
    if behind:
        return Finding("servers", f"{text}; {behind} without the newest orders and keys", Exit.OVERDUE)
    return Finding("servers", text)


def of_policy(version: int, missing_keys: Sequence[str]) -> Finding:
    """Whether calls can be permitted, and every key is there."""
    if not version:
        return Finding("policy", "none is in force: run ssn-vault policy apply FILE", Exit.AWAY)
    if missing_keys:
        text = f"version {version}; {len(missing_keys)} keys are not made: a key admin runs ssn-vault policy apply FILE"
        return Finding("policy", text, Exit.OVERDUE)
    return Finding("policy", f"version {version}")


def of_log(newest: CheckpointRow | None, holder: str | None, max_unsealed: float, now_ms: int) -> Finding:
    """Whether the log is sealed in time; `max_unsealed` in seconds."""
    if newest is None:
        return Finding("log", "no checkpoint yet: nothing is given out", Exit.AWAY)
    age = now_ms - newest.at
    text = f"{newest.size:,} entries sealed {_ago(age)}"
    if age < -CLOCK_MS:
        return Finding("log", "the newest checkpoint is from the future: a clock is wrong", Exit.AWAY)
    if age > max_unsealed * 1000:
        return Finding("log", f"{text}: too long ago, nothing is given out", Exit.AWAY)
    if holder is None:
        return Finding("log", f"{text}; no server seals it now", Exit.OVERDUE)
    return Finding("log", text)


def of_sinks(wanted: Sequence[str], sinks: Mapping[str, SinkRow], max_unsealed: float, now_ms: int) -> list[Finding]:
    """Whether the configured sinks acknowledge checkpoints."""
    found = []
    for name in wanted:
        if (sink := sinks.get(name)) is None:
            found.append(Finding(f"sink {name}", "has never acknowledged: nothing is given out", Exit.AWAY))
            continue
        age = now_ms - sink.acknowledged_at
        text = f"acknowledged {sink.size:,} entries {_ago(age)}"
        late = age > max_unsealed * 1000
        if late:
            text += ": too long ago, nothing is given out"
        found.append(Finding(f"sink {name}", text, Exit.AWAY if late else Exit.DONE))
    return found


def _ago(age_ms: int) -> str:
    return f"{max(0, age_ms) // 1000:,} s ago"
