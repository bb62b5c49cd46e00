"""`status` says what works: from rows and clocks to words and an exit status."""

import pytest

from vault_service.cli import health
from vault_service.cli.common import Exit
from vault_service.storage.log import CheckpointRow, SinkRow
from vault_service.storage.replicas import LAPSE_MS, ReplicaRow

NOW = 1_900_000_000_000


def test_servers_count_while_they_are_heard_of() -> None:
    assert health.of_servers([], 3, NOW).status is Exit.AWAY
    silent = [ReplicaRow("a", 3, NOW - LAPSE_MS)]
    gone = health.of_servers(silent, 3, NOW)
    assert (gone.status, gone.text) == (Exit.AWAY, "no server is running: the last one was seen 10 s ago")
    running = health.of_servers([*silent, ReplicaRow("b", 3, NOW - 1000)], 3, NOW)
    assert (running.status, running.text) == (Exit.DONE, "1 running, last heard of 1 s ago")
    behind = health.of_servers([ReplicaRow("a", 2, NOW), ReplicaRow("b", 3, NOW)], 3, NOW)
    assert (behind.status, behind.text) == (
        Exit.OVERDUE,
        "2 running, last heard of 0 s ago; 1 without the newest orders and keys",
    )


def test_a_policy_is_in_force_and_its_keys_are_made() -> None:
    assert health.of_policy(0, []).status is Exit.AWAY
    assert health.of_policy(2, ["ssn-vault-k12-data-1"]).status is Exit.OVERDUE
    assert health.of_policy(2, []) == health.Finding("policy", "version 2")


@pytest.mark.parametrize(
    ("age_ms", "holder", "status"),
    [
        (1_000, "a", Exit.DONE),
        (300_000, "a", Exit.DONE),
        (301_000, "a", Exit.AWAY),
        (1_000, None, Exit.OVERDUE),
        (-3_600_000, "a", Exit.AWAY),
    ],
)
def test_the_log_is_sealed_in_time_by_a_server(age_ms: int, holder: str | None, status: Exit) -> None:
    assert health.of_log(CheckpointRow(1, 7, NOW - age_ms, ""), holder, 300.0, NOW).status is status


def test_a_log_without_a_checkpoint_gives_nothing_out() -> None:
    assert health.of_log(None, "a", 300.0, NOW).status is Exit.AWAY


def test_configured_sinks_acknowledge_in_time() -> None:
    sinks = {"file": SinkRow("file", 7, NOW - 1_000), "witness": SinkRow("witness", 7, NOW - 301_000)}
    found = health.of_sinks(["file", "witness"], sinks, 300.0, NOW)
    assert [(one.part, one.status) for one in found] == [("sink file", Exit.DONE), ("sink witness", Exit.AWAY)]
    assert health.of_sinks(["witness"], {}, 300.0, NOW)[0].status is Exit.AWAY


def test_the_worst_finding_gives_the_exit_status() -> None:
    def found(*statuses: Exit) -> Exit:
        return health.worst([health.Finding("part", "", status) for status in statuses])

    assert found() is Exit.DONE
    assert found(Exit.DONE, Exit.OVERDUE) is Exit.OVERDUE
    assert found(Exit.AWAY, Exit.OVERDUE) is Exit.AWAY
