"""The one place that wires everything: settings in, a running server out, and its orderly end."""

import asyncio
import gc
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, TextIO

import sqlalchemy as sa
import structlog
import uvloop

from vault_service import __version__
from vault_service.api.certificate_files import CertificateFiles
from vault_service.api.chain import Chain
from vault_service.api.metrics import HttpPort
from vault_service.api.server import make_server, set_health
from vault_service.api.servicer import Servicer, method_handlers
from vault_service.audit.destinations import parse_destination
from vault_service.audit.loss import Loss
from vault_service.audit.refusals import RefusalMeter
from vault_service.audit.seal import Seal
from vault_service.audit.sequencer import Sequencer
from vault_service.audit.shipping import LogShipper
from vault_service.audit.sinks import VerifierKey, Witness
from vault_service.audit.stream import HashStream
from vault_service.batching import Batcher
from vault_service.config import Settings, VaultSettings
from vault_service.errors import CallError, ConfigurationError, StoreError
from vault_service.identity.person import PersonVerifier
from vault_service.keys.database_login import DatabaseLogin
from vault_service.keys.encryptions import EncryptionMeter
from vault_service.keys.keyring import Keyring
from vault_service.keys.log_signer import LogSigner
from vault_service.keys.transit import AppRole, Certificate, Jwt, Kubernetes, Login, TokenFile, Vault, VaultError
from vault_service.operations.call import Call
from vault_service.operations.runner import Runner
from vault_service.orders.control import Control
from vault_service.orders.jobs import JobRunner
from vault_service.orders.processor import OrderProcessor
from vault_service.orders.state import Signers
from vault_service.process import log_as_json, refuse_dumps, run_without_preemption
from vault_service.storage.engine import Store, check_durability, open_store
from vault_service.storage.faults import explain
from vault_service.storage.orders import read_epoch
from vault_service.storage.rights import check_rights
from vault_service.storage.schema import check_schema

_HEALTH_SECONDS: Final = 0.5  # between two looks at store and keys
_TIDY_SECONDS: Final = 60.0
_log: Final = structlog.stdlib.get_logger("ssn_vault.app")


@dataclass(frozen=True, slots=True)
class Serving:
    """What a server that listens can tell: its address (`host:port`) and whether it can serve calls now."""

    address: str
    metrics_port: int | None
    ready: Callable[[], bool]


def vault_login(settings: VaultSettings) -> Login:
    """The server's login at Vault; ConfigurationError unless exactly one method is set."""
    method = settings.method
    mount = settings.auth_mount or method
    # The types know which settings may be missing; `method` has seen that these are not.
    match method, settings:
        case "token", VaultSettings(token_file=Path() as file):
            return TokenFile(file)
        case "approle", VaultSettings(role_id_file=Path() as role_id, secret_id_file=Path() as secret_id):
            return AppRole(role_id, secret_id, mount, settings.secret_id_wrapped)
        case "kubernetes", VaultSettings(kubernetes_role=str() as role, kubernetes_token_file=Path() as file):
            return Kubernetes(role, file, mount)
        case "jwt", VaultSettings(jwt_role=str() as role, jwt_token_file=Path() as file):
            return Jwt(role, file, mount)
        case "cert", VaultSettings(client_cert=Path() as cert, client_key=Path() as key):
            return Certificate(cert, key, settings.certificate_role, mount)
    raise ConfigurationError(f"vault's login by {method} is not complete")


def open_vault(settings: VaultSettings, login: Login) -> Vault:
    """Vault, as configured, under `login`, which is renewed until the object is closed."""
    vault = Vault(
        settings.address,
        login,
        ca_file=settings.ca_file,
        namespace=settings.namespace,
        timeout=settings.timeout,
    )
    vault.keep_login_alive()
    return vault


def run_server(
    settings: Settings, on_serving: Callable[[Serving], None] | None = None, log: TextIO = sys.stdout
) -> None:
    """Serve until SIGTERM or SIGINT; `on_serving` is called, in the event loop, once the server listens.

    `log` gets the log, and the hash of every event of the disclosure record.

    ConfigurationError or StoreError when it cannot start. Every call that was begun is finished, within
    `drain_seconds`.
    """
    refuse_dumps()
    run_without_preemption()
    log_as_json(log)

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with serving(settings, log) as server:
            gc.collect()
            gc.freeze()  # what is there now stays: looking through it again and again cost a tenth of each call
            gc.set_threshold(50_000, 20, 20)  # calls make no cycles; the default looks for some every few calls
            if on_serving is not None:
                on_serving(server)
            await stop.wait()

    uvloop.run(main())


@asynccontextmanager
async def serving(settings: Settings, log: TextIO) -> AsyncIterator[Serving]:
    """A server that listens for as long as the block runs."""
    limits = settings.limits
    vault = open_vault(settings.vault, vault_login(settings.vault))
    database_login = DatabaseLogin(vault, settings.database.vault_role) if settings.database.vault_role else None
    store = await asyncio.to_thread(_checked_store, settings, database_login)
    keyring = Keyring(vault.unwrap, settings.keys.lease_seconds)
    signers = Signers(frozenset(settings.policy.signers), settings.policy.signatures)
    control = Control(store, vault.public_keys, signers, keyring)
    meter = RefusalMeter(settings.audit.refusals_per_minute)
    stream = HashStream(log.fileno())
    encryptions = EncryptionMeter()
    signer = LogSigner(vault)
    seal = Seal(store, signer, settings.audit.max_unsealed, settings.audit.sinks, lambda: control.state.losses)
    runner = Runner(store, control, keyring, meter, encryptions, stream, seal, limits)
    await asyncio.to_thread(_first_state, store, control)
    keyring.start()
    replica = uuid.uuid4().hex
    sequencer = _sequencer(settings, store, signer, stream, replica, lambda: control.state.losses)
    shipper = _shipper(settings, store, log, replica)
    await asyncio.to_thread(seal.start)
    orders = OrderProcessor(store, control, stream, replica, sequencer.kept_heads if sequencer else tuple)
    orders.start()
    jobs = JobRunner(store, control, keyring, encryptions, stream, replica)
    jobs.start()
    batcher = Batcher[Call](
        runner.execute,
        threads=limits.transactions_at_once if store.postgresql else 1,
        items_per_transaction=limits.items_per_transaction,
        calls_at_once=limits.calls_at_once,
        items_at_once=limits.items_at_once,
    )
    chain = Chain(
        settings.server.trust_domain,
        PersonVerifier(settings.issuers),
        meter,
        limits.least_seconds_left,
        timedelta(days=settings.server.longest_client_certificate_days),
    )
    certificates = CertificateFiles(settings.server)
    server, health, port = make_server(settings.server, certificates, limits, method_handlers(Servicer(batcher), chain))
    state = _Health(store, control, keyring)
    http = None
    if settings.server.metrics_port >= 0:
        where = settings.server.metrics_host, settings.server.metrics_port
        try:
            http = HttpPort(*where, lambda: state.ready)
        except OSError:
            raise ConfigurationError(f"{where[0]}:{where[1]} (metrics) cannot be listened on: is it taken?") from None
    await set_health(health, serving=False)
    await server.start()
    _log.info("listening", port=port, metrics_port=http.port if http else None, pid=os.getpid(), replica=replica)

    async def watch_health() -> None:
        while True:
            ready = await asyncio.to_thread(state.look)
            await set_health(health, serving=ready)
            await asyncio.sleep(_HEALTH_SECONDS)

    async def tidy() -> None:
        while True:
            await asyncio.sleep(_TIDY_SECONDS)
            await asyncio.to_thread(runner.tidy)

    def gives_out() -> bool:
        return state.ready and seal.holds

    tasks = [asyncio.create_task(work) for work in (watch_health(), tidy(), certificates.watch())]
    try:
        yield Serving(f"{settings.server.host}:{port}", http.port if http else None, gives_out)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await health.enter_graceful_shutdown()
        await server.stop(settings.server.drain_seconds)
        ends = [batcher.stop, jobs.stop, orders.stop, runner.tidy]  # what these still record is sealed
        ends += [one.stop for one in (shipper, sequencer) if one is not None]
        ends += [seal.stop, keyring.stop, vault.close, store.close]
        ends += [http.close] if http is not None else []
        ends += [database_login.stop] if database_login is not None else []
        for end in ends:
            await asyncio.to_thread(end)
        _log.info("stopped")


class _Health:
    """Whether calls can be served: the store answers, nothing was tampered with, the keys are there."""

    def __init__(self, store: Store, control: Control, keyring: Keyring) -> None:
        self._store = store
        self._control = control
        self._keyring = keyring
        self.ready = False

    def look(self) -> bool:
        """Look now; blocks for as long as the store does."""
        try:
            state = self._control.state
            with self._store.reading() as connection:
                epoch = read_epoch(connection)
            if epoch != state.epoch or self._control.tampered:
                # Calls would do it too; health must not wait for one.
                state = self._control.refresh(epoch, state.epoch)
            ready = (
                not self._control.tampered
                and state.policy_version > 0
                and bool(state.keys)  # a new domain whose keys are still to be made must not stop the others
                and self._keyring.complete
            )
        except (sa.exc.SQLAlchemyError, StoreError, CallError):
            ready = False
        if ready != self.ready:
            _log.info("serving" if ready else "not serving")
        self.ready = ready
        return ready


def _checked_store(settings: Settings, login: DatabaseLogin | None) -> Store:
    connections = settings.limits.transactions_at_once + 8  # one a background thread, and to spare
    store = open_store(settings.database.full_url(), connections=connections, credentials=login)
    try:
        if login is not None:
            login.start()
        check_schema(store)
        check_rights(store)
        check_durability(store)
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(explain(error)) from None
    except VaultError as error:
        raise StoreError(f"Vault gives no login for the database: {error}") from None
    return store


def _sequencer(
    settings: Settings,
    store: Store,
    signer: LogSigner,
    stream: HashStream,
    replica: str,
    losses: Callable[[], Sequence[Loss]],
) -> Sequencer | None:
    """The sequencer, started; None where this server may not seal the log."""
    audit = settings.audit
    if not audit.sequence:
        return None
    witness = None
    if audit.witness_url and audit.witness_key_file:
        key = VerifierKey.read(audit.witness_key_file)
        witness = Witness(audit.witness_url, key, audit.witness_ca_file, audit.witness_timeout)
    sequencer = Sequencer(store, signer, stream, audit, settings.origin, replica, witness, losses)
    sequencer.start()
    return sequencer


def _shipper(settings: Settings, store: Store, log: TextIO, replica: str) -> LogShipper | None:
    """The shipper of OCSF lines, started; None where nothing is to be shipped."""
    audit = settings.audit
    if audit.ship is None:
        return None
    destination = parse_destination(audit.ship, audit.ship_ca_file, log.fileno())
    shipper = LogShipper(store, destination, replica, __version__, audit.max_unsealed)
    shipper.start()
    return shipper


def _first_state(store: Store, control: Control) -> None:
    """Read the log of orders; without Vault this waits for the first call instead."""
    with store.transaction() as tx:
        epoch = tx.epoch
    try:
        control.refresh(epoch, 0)
    except CallError as error:
        _log.warning("the log of orders cannot be verified yet", reason=error.reason)
