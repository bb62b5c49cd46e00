"""Whether a declared loss is one: what a server looks at before it decides the order, and before it believes one.

A loss, the database and what this server keeps outside of it come in; nothing, or why not, goes out. Asked when the
order is decided, and again by every running server before it gives up what it remembers: the database's owner can
put a signed order into force that no server decided.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

import sqlalchemy as sa

from vault_service.audit.checkpoint import CLOCK_MS, Checkpoint, Signer, signed_checkpoint
from vault_service.audit.loss import Loss
from vault_service.audit.sequencer import stored_tree
from vault_service.errors import CallError, LogDamagedError, OrderRefusedError, Reason, SigningError
from vault_service.orders.order import LIFE_MS
from vault_service.storage import log

KeptHeads = Callable[[], Sequence[tuple[str, Checkpoint]]]  # where each is kept, and what it says
_AGAIN: Final = "prepare it again"


class LossCheck:
    """Knows the log's key and where heads are kept."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self.kept_heads: KeptHeads = tuple  # of this server's checkpoint file, once there is somebody who reads it

    def check(self, connection: sa.Connection, loss: Loss) -> None:
        """OrderRefusedError unless the log lost exactly what is named, lately. CallError when Vault is unavailable."""
        try:
            head = signed_checkpoint(loss.note, self._signer)
        except LogDamagedError:
            raise OrderRefusedError("what is said to be lost was never signed by the log's key") from None
        except SigningError:
            raise CallError(Reason.KEYS_UNAVAILABLE) from None
        if head.seen != (loss.lost_entries, loss.lost_root, loss.lost_at):
            raise OrderRefusedError("the lost checkpoint is not the one that the order names")
        now = time.time_ns() // 1_000_000
        if not loss.lost_at - CLOCK_MS <= loss.until <= now + CLOCK_MS or now - loss.until > LIFE_MS + CLOCK_MS:
            raise OrderRefusedError(f"the loss was not declared lately: {_AGAIN}")
        size, tree = log.size(connection), stored_tree(connection)

        def is_there(entries: int, root: bytes) -> bool:
            return entries <= size and tree.root(entries) == root

        if not is_there(loss.entries, loss.root):
            raise OrderRefusedError("the database does not have the checkpoint up to which nothing is lost")
        if is_there(loss.lost_entries, loss.lost_root):
            raise OrderRefusedError("nothing is lost: the database has the entries")
        for where, kept in self.kept_heads():
            if not is_there(kept.size, kept.root) and not loss.covers(*kept.seen):
                raise OrderRefusedError(f"{where} has another last checkpoint than the order names: {_AGAIN}")
