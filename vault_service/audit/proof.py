"""Proofs that one disclosure stands in the log, for somebody who trusts neither the database nor the server.

An event's id and a token come in, text goes out: the disclosure row, its path to the event's root, the event,
and the event's path to a signed checkpoint (C2SP tlog-proof). Of other persons it shows hashes only, which
the rows' salts keep from being guessed. `audit.verify` checks it.
"""

import base64
import json
from typing import Final

import sqlalchemy as sa

from vault_service.audit.event import disclosure_leaf
from vault_service.audit.merkle import Tree, inclusion_in
from vault_service.errors import NotFoundError, NotSealedError
from vault_service.storage import log
from vault_service.storage.events import body_of, disclosures_of_event

_FORMAT: Final = "ssn-vault-disclosure-proof 1"


def disclosure_proof(connection: sa.Connection, event_id: str, token: str) -> str:
    """The proof that event `event_id` disclosed `token`: canonical text, as a file.

    NotFoundError when the record has no such disclosure; NotSealedError while no checkpoint covers it.
    """
    body = body_of(connection, event_id)
    rows = disclosures_of_event(connection, event_id)
    row = next((row for row in rows if row.token == token), None)
    if body is None or row is None:
        raise NotFoundError("there is no such disclosure of this token in the record")
    position = log.position_of(connection, event_id)
    checkpoint = log.newest_checkpoint(connection)
    if position is None or checkpoint is None or checkpoint.size <= position:
        raise NotSealedError("no checkpoint covers this disclosure yet")
    tree = Tree(lambda level, first, count: log.stored_hashes(connection, level, first, count))
    path = [base64.b64encode(part).decode() for part in tree.inclusion(position, checkpoint.size)]
    proof = {
        "format": _FORMAT,
        "event": body,
        "disclosure": row._asdict(),
        "disclosure_path": [part.hex() for part in inclusion_in([disclosure_leaf(one) for one in rows], row.position)],
        "log_proof": "\n".join(["c2sp.org/tlog-proof@v1", f"index {position}", *path, "", checkpoint.note]),
    }
    return json.dumps(proof, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
