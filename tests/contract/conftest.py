"""A stack whose policy can give every reason of the contract, on each database; tests may break it and mend it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ssn_vault_client import Profile
from tests.conftest import new_database_url
from tests.support.stack import Stack
from vault_service.dev.bootstrap import issue_client_certificate
from vault_service.orders.order import Action

STRANGER = "stranger"  # a certificate of our authority, and no client of the policy


@pytest.fixture(scope="package")
def vault(database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp(f"contract-{database}")
    with Stack(directory, database_url=new_database_url(database, request), policy=_every_reason) as running:
        running.order(Action.FREEZE, {"kind": "client", "name": "frozen", "reason": "a test"}, "key-admin-a")
        yield running


@pytest.fixture(scope="package")
def stranger(vault: Stack) -> Profile:
    """A client that the policy does not know."""
    root = vault.root()
    issued = issue_client_certificate(root, STRANGER)
    root.close()
    cert, key = (vault.home.directory / f"{STRANGER}.{kind}" for kind in ("pem", "key"))
    cert.write_text(issued.chain)
    key.write_text(issued.key)
    return Profile(address=vault.server.address, ca=vault.certificates.ca, cert=cert, key=key)


def _every_reason(text: str) -> str:
    policy: dict[str, Any] = yaml.safe_load(text)
    small = {"interest": "Made for tests", "per_call": 10, "per_day": 2}
    policy["purposes"] |= {"spent": small, "repeated": small}
    policy["purposes"]["tax-reporting"]["approval_above"] = 1
    sample = policy["agreements"]["college-outcomes"]
    policy["agreements"] |= {
        "ended": {**sample, "parties": {"k12": ["old-research"], "highered": ["old-job"]}, "end": "2024-07-02"},
        "large": {**sample, "parties": {"k12": ["large-research"], "highered": ["large-job"]}, "min_items": 10},
    }
    policy["clients"] |= {name: {} for name in ("idle", "old-research", "old-job", "large-research", "large-job")}
    policy["clients"]["frozen"] = {"tokenize": ["k12"]}
    policy["clients"]["sis"]["detokenize"]["k12"] += ["spent", "repeated"]
    return json.dumps(policy, default=str, indent=2)  # which is YAML too
