"""Calls that leave something in the record to ask about, and a record that does not open for a while."""

import csv
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import sqlalchemy as sa

from ssn_vault_client import LinkageItem, Ssn, SsnVaultError, TokenizeItem, View
from tests.support.stack import JUSTIFICATION, Stack


def tokens_of(stack: Stack, *numbers: str, client: str = "sis", domain: str = "k12") -> list[str]:
    with stack.client(client) as one:
        return [result.token or "" for result in one.tokenize(domain, [TokenizeItem(Ssn(n)) for n in numbers])]


def look_up(stack: Stack, *tokens: str, view: View = View.LAST4, justification: str = JUSTIFICATION) -> None:
    """As the tax clerk."""
    with stack.client("sis", "tax-clerk") as clerk:
        clerk.detokenize("k12", tokens, purpose="tax-reporting", justification=justification, view=view)


def match(stack: Stack, client: str, *tokens: str) -> None:
    with stack.client(client) as one:
        one.linkage_match("college-outcomes", [LinkageItem(token) for token in tokens])


def refused_call(stack: Stack, token: str) -> None:
    with stack.client("sis") as sis, suppress(SsnVaultError):
        sis.detokenize("k12", [token], purpose="aid-verification", justification=JUSTIFICATION)


def now() -> str:
    """The next moment: what comes after is later, what was before is earlier."""
    time.sleep(0.01)
    moment = datetime.now(UTC).isoformat(timespec="milliseconds")
    time.sleep(0.01)
    return moment


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


@contextmanager
def unreadable(stack: Stack, token: str) -> Iterator[None]:
    """A record that does not open for a while."""
    with stack.superuser() as engine:

        def put(ciphertext: bytes) -> None:
            with engine.begin() as connection:
                statement = sa.text("UPDATE token_record SET ciphertext = :ciphertext WHERE token = :token")
                connection.execute(statement, {"ciphertext": ciphertext, "token": token})

        ((good,),) = stack.query("SELECT ciphertext FROM token_record WHERE token = :token", token=token)
        put(bytes(good[:-1]) + bytes([good[-1] ^ 1]))
        try:
            yield
        finally:
            put(bytes(good))
