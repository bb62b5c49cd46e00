"""What verifying a record in memory takes and gives: records, keys, findings."""

from collections.abc import Sequence
from pathlib import Path

from tests.support.auditlog import Book, LogKey, Records, WitnessKey
from vault_service.audit.verify import Finding, Keys, Report, verify_all


def sealed_book(witness: WitnessKey) -> Book:
    """Twelve entries, each with two disclosure rows, under three checkpoints at 4, 8 and 12."""
    made = Book()
    for _ in range(3):
        made.add(4)
        made.seal(witness=witness)
    return made


def verified(
    records: Records,
    *keys: LogKey,
    witness: WitnessKey | None = None,
    kept: Sequence[Path] = (),
    witness_files: Sequence[Path] = (),
    streams: Sequence[Path] = (),
    older: bool = False,
    losses: Sequence[str] = (),
) -> Report:
    """The report on records under these keys, a witness demanded where one is given."""
    demanded = (witness.name, witness.public) if witness else None
    trusted = Keys([key.public for key in keys], demanded)
    return verify_all(records, trusted, kept, witness_files, streams, older=older, known_losses=losses)


def wrong(report: Report) -> list[Finding]:
    """All findings."""
    assert report.count == len(report.findings)
    return report.findings


def only(report: Report) -> Finding:
    """The one finding that there is."""
    (finding,) = wrong(report)
    return finding
