"""A declared loss: what two signers of policies accepted that the database no longer has of the log.

An asynchronous failover or a restored backup loses entries that a checkpoint covers. Nothing else may pass for one:
a loss is an order, in force by signatures, and names the last checkpoint that the database still has and the last
one that is known elsewhere. Pure values; who may accept a loss is decided in `orders.state`.
"""

from dataclasses import dataclass, field
from typing import Final

# A loss on one line, for the operators of witnesses: ENTRIES ROOT LOST-ENTRIES LOST-ROOT LOST-AT.
LOSS_PATTERN: Final = r"^[0-9]{1,15} [0-9a-f]{64} [0-9]{1,15} [0-9a-f]{64} [0-9]{1,15}$"


@dataclass(frozen=True, slots=True)
class Loss:
    """Entries that were signed and are gone: those behind the first `entries`, up to `lost_entries`.

    `root` and `lost_root` are the roots of these two heads (32 bytes); `lost_at` is when the second was signed, and
    `until` when the loss was declared (ms since 1970). `note` is the second head as it was signed, and `order` the id
    of the order that accepted the loss.
    """

    order: str
    entries: int
    root: bytes
    lost_entries: int
    lost_root: bytes
    lost_at: int
    until: int
    note: str = field(default="", repr=False)

    def covers(self, size: int, root: bytes, at_ms: int) -> bool:
        """Whether a head was signed over entries that are declared as lost."""
        if size == self.lost_entries and root != self.lost_root:
            return False
        return self.entries < size <= self.lost_entries and at_ms <= self.lost_at

    @property
    def line(self) -> str:
        """The loss on one line."""
        return f"{self.entries} {self.root.hex()} {self.lost_entries} {self.lost_root.hex()} {self.lost_at}"


def parse_loss(line: str) -> Loss:
    """The loss on a line of the form LOSS_PATTERN, without the order that accepted it. ValueError for another form."""
    entries, root, lost_entries, lost_root, lost_at = line.split(" ")
    at = int(lost_at)
    return Loss("", int(entries), bytes.fromhex(root), int(lost_entries), bytes.fromhex(lost_root), at, at)
