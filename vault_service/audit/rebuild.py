"""Rebuilds the stored tree of the log from its entries, when a stored node is not what its entries give.

The schema owner's connection comes in; what was put right goes out. Entries are never changed: where one is not
what the newest checkpoint covers there is nothing to rebuild from, and nothing is touched.
"""

from typing import Final

from vault_service.audit.checkpoint import parse_unverified
from vault_service.audit.merkle import WIDTH, Edge, leaf_hash
from vault_service.errors import LogDamagedError
from vault_service.storage import log
from vault_service.storage.engine import Store

_READ_AT_ONCE: Final = 5_000  # entries


def rebuild_tree(store: Store) -> list[str]:
    """Make every stored node the root of its entries, in one transaction; a line for each that was not.

    LogDamagedError when an entry was changed or removed: then nothing is done. Signatures are not looked at here;
    servers and `audit verify` hold the result against every checkpoint.
    """
    with store.engine.begin() as connection, log.nodes_writable(connection):
        newest = log.newest_checkpoint(connection)
        head = parse_unverified(newest.note)[0] if newest else None
        size = log.size(connection)
        edge, mended, covered = Edge(), [], head is None or head.size == 0
        while edge.size < size:
            first = edge.size
            end = head.size if head is not None and first < head.size else size  # to stop at the checkpoint
            rows = log.entries(connection, first, min(_READ_AT_ONCE, end - first))
            for at, row in enumerate(rows):
                if row.position != first + at or row.body is None or leaf_hash(row.body.encode()) != row.hash:
                    raise LogDamagedError(f"entry {first + at} was changed: the tree cannot be rebuilt from it")
            if not rows:
                raise LogDamagedError(f"entry {first} is missing from the log: the tree cannot be rebuilt")
            for node in edge.add([row.hash for row in rows]):
                stored = log.stored_hashes(connection, node.level, node.position, 1)
                if stored != [node.hash]:
                    log.replace_node(connection, node)
                    what = "was not the root of its entries" if stored else "was missing"
                    mended.append(f"node {node.position} of level {node.level} {what}")
            if head is not None and edge.size == head.size:
                covered = edge.root() == head.root
                if not covered:
                    raise LogDamagedError("the entries are not those that the newest checkpoint covers")
        if not covered:
            raise LogDamagedError("the newest checkpoint covers more entries than there are")
        for level, count in log.count_nodes(connection).items():
            complete = size // WIDTH**level
            if count > complete:
                log.drop_nodes(connection, level, complete)
                mended.append(f"{count - complete} nodes of level {level} were roots of no entries")
        return mended
