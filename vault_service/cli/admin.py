"""An admin at work: one person's Vault login, the admins' database role, and orders from signing to outcome."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from vault_service.app import open_vault
from vault_service.config import DatabaseSettings, Settings, load_settings
from vault_service.errors import (
    ConfigurationError,
    MoreSignaturesNeededError,
    OrderRefusedError,
    StoreError,
    TamperedError,
)
from vault_service.governance.history import PolicyHistory, PolicyInForce
from vault_service.keys.transit import TokenFile, TokenValue, Vault, person_key_name
from vault_service.orders.order import Action, Order, new_order, parse_order
from vault_service.orders.state import ControlState, Signers, apply
from vault_service.policy.model import Role
from vault_service.storage.engine import Store, open_store
from vault_service.storage.orders import (
    OrderRow,
    OutcomeRow,
    SignatureRow,
    in_force_after,
    insert_order,
    insert_signature,
    newest_orders,
    read_epoch,
    read_orders,
)

DEFAULT_PERSON: Final = "key-admin-a"  # of a development home
WAIT_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Where:
    """Which installation a command is for, and who acts: the options that every command has."""

    home: Path | None = None
    config: Path | None = None
    person: str | None = None
    token_file: Path | None = None

    def settings(self) -> Settings:
        """The configuration; ConfigurationError when none is named."""
        if self.home is not None:
            file = self.home / "config.toml"
            if not file.is_file():
                raise ConfigurationError(f"there is no development stack in {self.home}")
            return load_settings(file)
        return load_settings(self.config)

    def login(self, person: str | None = None) -> TokenFile | TokenValue:
        """The login of the person who acts, or in development of `person`."""
        if self.token_file is not None and person is None:
            return TokenFile(self.token_file)
        if self.home is not None:
            file = self.home / "people" / f"{person or self.person or DEFAULT_PERSON}.token"
            if not file.is_file():
                raise ConfigurationError("there is no such person in this home")
            return TokenFile(file)
        if person is not None or self.person is not None:
            raise ConfigurationError("--as and --second are for a development home only")
        if token := os.environ.get("VAULT_TOKEN"):
            return TokenValue(token)
        return TokenFile(Path.home() / ".vault-token")


@contextmanager
def role_store(settings: Settings, database: DatabaseSettings | None) -> Iterator[Store]:
    """The database under one role's settings, the server's where that role has none (SQLite has no roles)."""
    writes = database is None or database is not settings.auditor_database  # auditors may read a standby
    store = open_store((database or settings.database).full_url(), connections=2, writes=writes)
    try:
        yield store
    finally:
        store.close()


class Admin:
    """One person, one installation."""

    def __init__(self, settings: Settings, store: Store, vault: Vault) -> None:
        self.settings = settings
        self.store = store
        self.vault = vault
        self.signers = Signers(frozenset(settings.policy.signers), settings.policy.signatures)
        person = vault.person_name()
        if person is None:
            raise OrderRefusedError("this Vault token belongs to no person; log in as yourself")
        self.person = person

    def ask(self, action: Action, arguments: Mapping[str, Any]) -> Order:
        """Sign an order as this person and put it where the servers look."""
        order = new_order(action, self.person, arguments, time.time_ns() // 1_000_000)
        signature = self._signature(order)
        with self.store.engine.begin() as connection:
            insert_order(connection, order.id, order.body, order.texts)
            insert_signature(connection, order.id, signature)
        return order

    def sign(self, order_id: str) -> Order:
        """Add this person's signature to an order that waits. OrderRefusedError when there is none to sign."""
        row = self.find(order_id)
        order = parse_order(row.body)
        if row.outcome is not None:
            raise OrderRefusedError(f"the order was decided already: {row.outcome.outcome}")
        if order.expires < time.time_ns() // 1_000_000:
            raise OrderRefusedError("the order has expired")
        if self.person in {signature.person for signature in row.signatures}:
            raise OrderRefusedError("you have signed it; another person must")
        signature = self._signature(order)
        with self.store.engine.begin() as connection:
            insert_signature(connection, order.id, signature)
        return order

    def find(self, order_id: str) -> OrderRow:
        """The order of this id, or of the only id that starts so. OrderRefusedError when there is none."""
        with self.store.reading() as connection:
            rows = read_orders(connection, [order_id])
            if not rows:
                ids = [row.id for row in newest_orders(connection, 1000) if row.id.startswith(order_id)]
                rows = read_orders(connection, ids) if len(ids) == 1 else []
        if not rows:
            raise OrderRefusedError("there is no order of this id")
        return rows[0]

    def wait(self, order: Order, seconds: float = WAIT_SECONDS) -> OutcomeRow | None:
        """What became of the order; None when it waits for a second person. StoreError when no server decides."""
        deadline = time.monotonic() + seconds
        while True:
            with self.store.reading() as connection:
                (row,) = read_orders(connection, [order.id])
                epoch = read_epoch(connection)
            if row.outcome is not None:
                # Servers obey the log of orders in force; an outcome alone is only what the database says.
                if row.outcome.outcome == "done" and not 0 < (row.position or 0) <= epoch:
                    raise TamperedError("the database says done, but the order is not in force")
                return row.outcome
            if self.needs_another(row, self.state()):
                return None
            if time.monotonic() > deadline:
                raise StoreError("no server has decided the order yet: is one running? It stays valid for a day")
            time.sleep(_POLL_SECONDS)

    def needs_another(self, row: OrderRow, state: ControlState) -> bool:
        """Whether an undecided order waits for the signature of another person who has the right to give it."""
        signed_by = [signature.person for signature in row.signatures]
        try:
            apply(state, parse_order(row.body), signed_by, self.signers, time.time_ns() // 1_000_000)
        except MoreSignaturesNeededError:
            return True
        except OrderRefusedError:
            return False
        return False

    def state(self) -> ControlState:
        """The state as the database tells it: for showing. Servers verify every signature before they obey."""
        return read_state(self.store, self.signers)

    def roles(self) -> frozenset[Role]:
        """This person's roles in the policy in force."""
        person = self.state().policy.people.get(self.person)
        return person.roles if person else frozenset()

    def _signature(self, order: Order) -> SignatureRow:
        version, signature = self.vault.sign(person_key_name(self.person), order.message)
        return SignatureRow(self.person, version, signature)


@contextmanager
def admin(where: Where, person: str | None = None) -> Iterator[Admin]:
    """The person of `where` (in development: `person`) at work."""
    settings = where.settings()
    vault = open_vault(settings.vault, where.login(person))
    try:
        with role_store(settings, settings.admin_database) as store:
            yield Admin(settings, store, vault)
    finally:
        vault.close()


def read_state(store: Store, signers: Signers) -> ControlState:
    """The fold of the orders in force, taking every stored signature for good."""
    state = ControlState()
    for state, _ in _states(store, signers):  # noqa: B007 - the last one is wanted
        pass
    return state


def policies_by_epoch(store: Store, signers: Signers) -> PolicyHistory:
    """Every policy that was ever in force, from the same fold: which one held at an epoch, or at a moment."""
    policies: list[PolicyInForce] = []
    version = 0
    for state, applied_at in _states(store, signers):
        if state.policy_version != version:
            version = state.policy_version
            policies.append(PolicyInForce(state.epoch, applied_at, state.policy))
    return PolicyHistory(policies)


def _states(store: Store, signers: Signers) -> Iterator[tuple[ControlState, int]]:
    """The state after each order in force, and when that was."""
    try:
        with store.reading() as connection:
            rows = in_force_after(connection, 0)
    except sa.exc.OperationalError as error:
        raise StoreError("the database cannot be read") from error
    state = ControlState()
    for row in rows:
        signed_by = [signature.person for signature in row.signatures]
        state = apply(state, parse_order(row.body), signed_by, signers, row.applied_at or 0, past=True)
        yield state, row.applied_at or 0
