"""A wrapping key that Vault has no longer, or another one: `keys status` and servers see it before the lease ends."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssn_vault_client import Ssn, TokenizeItem
from tests.support.commands import ssn_vault, succeeds
from tests.support.servers import http, until
from tests.support.stack import Stack
from vault_service.keys.transit import Vault

KEY = "ssn-vault-k12-data-1"
LEASE = 12.0
OVERDUE = 3


@pytest.fixture
def own(own_stack_directory: Path) -> Iterator[Stack]:
    """A stack whose wrapping key a test takes away."""
    with Stack(own_stack_directory, settings={"SSN_VAULT_KEYS__LEASE_SECONDS": str(LEASE)}) as stack:
        yield stack


def deleted(root: Vault) -> None:
    root.write(f"transit/keys/{KEY}/config", deletion_allowed=True)
    root.delete(f"transit/keys/{KEY}")


def made_again(root: Vault) -> None:
    deleted(root)
    root.create_wrapping_key(KEY)


def out_of_service(root: Vault) -> None:
    root.delete(f"transit/keys/{KEY}/soft-delete")


def old_versions_refused(root: Vault) -> None:
    root.write(f"transit/keys/{KEY}/rotate")
    root.write(f"transit/keys/{KEY}/config", min_decryption_version=2)


def metric(stack: Stack, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", http(stack.server, "/metrics")[1], re.MULTILINE)
    assert found is not None
    return float(found[1])


def tokenizes(stack: Stack) -> bool:
    with stack.client("sis") as sis:
        return bool(sis.tokenize("k12", [TokenizeItem(Ssn("936010001"))])[0].token)


def test_each_way_to_lose_a_key_is_seen_before_its_lease_ends(own: Stack) -> None:
    """One after the other on one stack; the last cannot be undone."""
    root = own.root()
    undo: dict[Callable[[Vault], None], Callable[[Vault], object] | None] = {
        out_of_service: lambda vault: vault.write(f"transit/keys/{KEY}/soft-delete-restore"),
        old_versions_refused: lambda vault: vault.write(f"transit/keys/{KEY}/config", min_decryption_version=1),
        deleted: None,
        made_again: None,
    }
    for lose, find_again in undo.items():
        succeeds(own, "keys", "status") if lose is not made_again else root.create_wrapping_key(KEY)
        assert metric(own, "ssn_vault_keys_refused") == (lose is made_again)
        lose(root)
        result = ssn_vault(own, "keys", "status")
        assert result.exit_code == OVERDUE, result.output
        (problem,) = [line for line in result.output.splitlines() if line.startswith("! ")]
        assert problem.startswith("! k12 data 1: Vault does not open it any more")
        if lose is not made_again:
            until(lambda: metric(own, "ssn_vault_keys_refused") == 1, LEASE)
            assert metric(own, "ssn_vault_key_seconds_left") > 0
            assert tokenizes(own), "it is still in memory"
        if find_again is not None:
            find_again(root)
            until(lambda: metric(own, "ssn_vault_keys_refused") == 0, LEASE)
    root.close()
    alarms = [json.loads(line) for line in own.log.read_text().splitlines() if '"critical"' in line]
    assert [alarm["key"] for alarm in alarms] == [KEY] * 3
    assert all(alarm["seconds_left"] > 0 for alarm in alarms)


def test_who_may_not_look_is_told_so_and_nothing_is_called_lost(own: Stack) -> None:
    result = ssn_vault(own, "keys", "status", "--as", "auditor")
    assert result.exit_code == 0, result.output
    assert "was not looked at" in result.output
    assert "not looked at" not in succeeds(own, "keys", "status")
