"""Rules that hold between a policy's entries. Pure: a policy comes in, mistakes with their paths go out."""

from collections.abc import Iterator

from vault_service.policy.model import Policy

Path = tuple[str | int, ...]


def mistakes(policy: Policy) -> Iterator[tuple[Path, str]]:
    """Every mistake: the path of the field and what is wrong with it."""
    yield from _names(policy)
    yield from _clients(policy)
    yield from _agreements(policy)
    for name, purpose in policy.purposes.items():
        if purpose.approval_above is not None and not purpose.person_required:
            # An approval is for one person's call: without a person no call could ever be covered by it.
            yield ("purposes", name, "approval_above"), "needs person_required: true, as an approval is for one person"
    for name, person in policy.people.items():
        for index, client in enumerate(person.through):
            if client not in policy.clients:
                yield ("people", name, "through", index), "is not a client"


def _names(policy: Policy) -> Iterator[tuple[Path, str]]:
    """Key names in Vault start with these names: none may look like a person's or the audit log's key."""
    for kind, names in (("domains", policy.domains), ("agreements", policy.agreements)):
        for name in names:
            if name.partition("-")[0] in ("person", "audit"):
                yield (kind, name), "is a reserved name"
    for name in policy.agreements.keys() & policy.domains.keys():
        yield ("agreements", name), "is the name of a domain"


def _clients(policy: Policy) -> Iterator[tuple[Path, str]]:
    for name, client in policy.clients.items():
        for index, domain in enumerate(client.tokenize):
            if domain not in policy.domains:
                yield ("clients", name, "tokenize", index), "is not a domain"
        for domain, purposes in client.detokenize.items():
            if domain not in policy.domains:
                yield ("clients", name, "detokenize", domain), "is not a domain"
            for index, purpose in enumerate(purposes):
                if purpose not in policy.purposes:
                    yield ("clients", name, "detokenize", domain, index), "is not a purpose"


def _agreements(policy: Policy) -> Iterator[tuple[Path, str]]:
    seen: set[str] = set()
    for name, agreement in policy.agreements.items():
        if len(agreement.parties) != 2:
            yield ("agreements", name, "parties"), "names other than two domains"
        if agreement.end < agreement.start:
            yield ("agreements", name, "end"), "is before start"
        for domain, clients in agreement.parties.items():
            at: Path = ("agreements", name, "parties", domain)
            if domain not in policy.domains:
                yield at, "is not a domain"
            for index, client in enumerate(clients):
                if client not in policy.clients:
                    yield (*at, index), "is not a client"
                elif domain in policy.clients[client].tokenize:
                    # It could tokenize numbers of its choice and ask who they are.
                    yield (*at, index), "also tokenizes in this domain, which one client may not"
                if client in seen:
                    yield (*at, index), "stands on a side already; a client stands on one side of one agreement"
                seen.add(client)
