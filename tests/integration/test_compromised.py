"""The worst day, what `keys status` says of keys that are not in order, and certificates that are denied."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from ssn_vault_client import NotPermittedError, Ssn, TokenizeItem
from tests.conftest import new_database_url
from tests.support.commands import REFUSED, USAGE, ssn_vault, succeeds
from tests.support.stack import JUSTIFICATION, Stack
from vault_service.dev.bootstrap import issue_client_certificate
from vault_service.keys.encryptions import MOST_ENCRYPTIONS
from vault_service.keys.names import KeyKind, KeyName
from vault_service.keys.wrapping import wrapping_key_exists
from vault_service.orders.key_state import Stage

NUMBERS = [f"94{area}01{serial:04}" for area in range(3) for serial in range(60)]
OVERDUE = 3


@pytest.fixture(scope="module")
def own(database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose keys a test may ruin."""
    url = new_database_url(database, request)
    with Stack(tmp_path_factory.mktemp("compromised") / "home", database_url=url) as stack:
        yield stack


def tokens(stack: Stack) -> list[str]:
    with stack.client("sis") as sis:
        return [result.token or "" for result in sis.tokenize("k12", [TokenizeItem(Ssn(n)) for n in NUMBERS])]


def last_four(stack: Stack, asked: list[str]) -> list[str]:
    with stack.client("sis") as sis:
        found = []
        for at in range(0, len(asked), 100):
            answer = sis.detokenize(
                "k12", asked[at : at + 100], purpose="transcript-verification", justification=JUSTIFICATION
            )
            found += [result.ssn.last4 if result.ssn else "" for result in answer.results]
        return found


def test_the_worst_day(own: Stack, tmp_path: Path) -> None:
    before = tokens(own)
    succeeds(own, "keys", "rotate", "--kind", "index", "--domain", "k12", "--yes")  # as if rotated that morning
    report = tmp_path / "report.md"
    alone = ["keys", "compromised", "--domain", "k12", "--yes", "--report", report, "--rate", "100000"]
    waits = ssn_vault(own, *alone)
    assert waits.exit_code == REFUSED, waits.output  # a second person is needed to destroy
    assert "not finished" in report.read_text()
    assert report.stat().st_mode & 0o777 == 0o600
    succeeds(own, *alone, "--second", "key-admin-b")
    with own.admin("key-admin-a") as one:
        state = one.state()
        old = [KeyName("k12", KeyKind.DATA, 1), KeyName("k12", KeyKind.INDEX, 1), KeyName("k12", KeyKind.INDEX, 2)]
        for name in old:
            version = state.version(name)
            assert version is not None
            assert version.stage is Stage.DESTROYED
            assert not wrapping_key_exists(one.vault, name)
            assert f"| k12/{name.kind}/{name.version} | 20" in report.read_text()
        # One new version a kind, although the command ran twice.
        assert [v.name.version for v in state.live("k12", KeyKind.DATA)] == [2]
        assert [v.name.version for v in state.live("k12", KeyKind.INDEX)] == [3]
    text = report.read_text()
    assert f"moved to new keys: {len(NUMBERS)} " in text
    assert "not finished" not in text
    assert "not yet" not in text
    assert tokens(own) == before
    assert last_four(own, before) == [number[-4:] for number in NUMBERS]
    succeeds(own, "keys", "status")
    assert report.stat().st_mode & 0o777 == 0o600
    again = ssn_vault(own, *alone)
    assert again.exit_code == USAGE  # a finished report is not written over
    assert report.read_text() == text


def test_a_report_is_not_written_where_a_link_leads_and_no_key_is_touched(own: Stack, tmp_path: Path) -> None:
    theirs, link = tmp_path / "theirs", tmp_path / "report.md"
    link.symlink_to(theirs)
    with own.admin("key-admin-a") as one:
        before = one.state().keys
    for text in (None, "not finished"):
        if text:
            theirs.write_text(text)
        refused = ssn_vault(own, "keys", "compromised", "--domain", "k12", "--yes", "--report", link)
        assert refused.exit_code == USAGE
        assert "--report" in refused.output
    assert theirs.read_text() == "not finished"
    with own.admin("key-admin-a") as one:
        assert one.state().keys == before


def problems(stack: Stack, **settings: str) -> list[str]:
    result = ssn_vault(stack, "keys", "status", settings=settings)
    assert result.exit_code == (OVERDUE if "! " in result.output else 0), result.output
    return [line for line in result.output.splitlines() if line.startswith("! ")]


def test_status_says_in_words_what_is_wrong_and_ends_with_3(own: Stack) -> None:
    tokens(own)
    assert problems(own) == []
    # Overdue: a millisecond is too long.
    late = problems(own, SSN_VAULT_KEYS__DATA_DAYS="0.00000001")
    assert any("k12 data" in line and "cryptoperiod" in line and "keys rotate --kind data" in line for line in late)
    assert not any("index" in line for line in late)
    # Nearly exhausted.
    own.tamper(
        "DELETE FROM encryption_count WHERE domain = 'highered'",
        f"INSERT INTO encryption_count VALUES ('highered', 1, {MOST_ENCRYPTIONS - 5})",
    )
    (nearly,) = problems(own)
    assert "highered data 1" in nearly
    assert "of the 4,294,967,296 encryptions" in nearly
    with own.client("registrar") as registrar, pytest.raises(Exception, match="KEYS_UNAVAILABLE"):
        registrar.tokenize("highered", [TokenizeItem(Ssn(NUMBERS[0]))])  # rather than one encryption too many
    own.tamper("DELETE FROM encryption_count WHERE domain = 'highered'")
    # A row of an older backup, under a version that is gone.
    own.tamper("UPDATE token_record SET data_version = 1 WHERE token = :token", token=tokens(own)[0])
    (retired,) = problems(own)
    assert "k12 data 1" in retired
    assert "1 rows use it although it is destroyed" in retired


def test_a_denied_certificate_is_refused_from_then_on_and_another_of_the_same_client_is_not(own: Stack) -> None:
    root = own.root()
    issued = issue_client_certificate(root, "sis")
    root.close()
    serial = f"{x509.load_pem_x509_certificate(issued.chain.encode()).serial_number:x}"
    files = own.certificates.clients["sis"]
    kept = files.cert.read_bytes(), files.key.read_bytes()
    try:
        files.cert.write_text(issued.chain)
        files.key.write_text(issued.key)
        with own.client("sis") as stolen:
            assert stolen.tokenize("k12", [TokenizeItem(Ssn(NUMBERS[0]))])
            own.apply_policy(lambda text: text + f'\ndenied_certificates: ["{serial}"]\n')
            with pytest.raises(NotPermittedError):
                stolen.tokenize("k12", [TokenizeItem(Ssn(NUMBERS[0]))])
    finally:
        files.cert.write_bytes(kept[0])
        files.key.write_bytes(kept[1])
    with own.client("sis") as rightful:
        assert rightful.tokenize("k12", [TokenizeItem(Ssn(NUMBERS[0]))])
    events = [json.loads(line) for line in succeeds(own, "audit", "tail", "-n", "20", "--json").splitlines()]
    assert [e["outcome"] for e in events if e.get("certificate") == serial] == ["ok", "NOT_PERMITTED"]
