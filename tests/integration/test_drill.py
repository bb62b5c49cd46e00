"""`ssn-vault incident drill`: the breach procedure rehearsed on a stack of its own, and recorded where it counts."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import REFUSED, parsed, ssn_vault, succeeds
from tests.support.stack import Stack
from vault_service.dev import drill


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("drill") / "home") as running:
        yield running


def test_a_drill_does_every_step_and_is_recorded(own: Stack) -> None:
    assert parsed(own, "status")["last_breach_drill"].startswith("never")
    result = ssn_vault(own, "incident", "drill", "--yes")
    assert result.exit_code == 0, result.output
    for step in ("1 contain", "2 look", "3 keep", "4 scope", "5 mend", "6 the client works again"):
        assert step in result.output
    assert "25 persons to notify" in result.output
    assert parsed(own, "status")["last_breach_drill"].endswith("by key-admin-a, passed")
    lines = succeeds(own, "audit", "search", "--kind", "order", "--json").splitlines()
    assert "incident.drill" in {json.loads(line)["action"] for line in lines}
    # Nothing of it touched this installation.
    assert own.query("SELECT count(*) FROM token_record") == [(0,)]


def test_a_drill_that_fails_is_recorded_as_one(own: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill.Rehearsal, "run", lambda _: "1 contain: the client got a number after it was frozen")
    result = ssn_vault(own, "incident", "drill", "--yes")
    assert result.exit_code == 1
    assert "the drill failed, and that is recorded" in result.output
    assert parsed(own, "status")["last_breach_drill"].endswith("FAILED")


def test_who_may_not_record_it_is_told(own: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill.Rehearsal, "run", lambda _: "")
    assert ssn_vault(own, "incident", "drill", "--yes", "--as", "auditor").exit_code == REFUSED


def test_a_home_that_is_none_is_refused_before_anything_starts(tmp_path: Path) -> None:
    assert ssn_vault(None, "incident", "drill", "--home", tmp_path, "--yes").exit_code == 2
