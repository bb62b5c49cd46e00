"""The one place that wires everything: settings in, a running server out, and its orderly end."""

import asyncio
import gc
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, TextIO

import grpc
import sqlalchemy as sa
import structlog
import uvloop
from grpc_health.v1.health import aio as health_aio

from vault_service import __version__
from vault_service.api import listening
from vault_service.api.certificate_files import CertificateFiles
from vault_service.api.chain import Chain
from vault_service.api.drain import Drain
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
from vault_service.log_writer import LogWriter
from vault_service.operations.call import Call
from vault_service.operations.runner import Runner
from vault_service.orders.control import Control
from vault_service.orders.jobs import JobRunner
from vault_service.orders.losses import LossCheck
from vault_service.orders.processor import OrderProcessor
from vault_service.orders.pulse import Pulse, domains_without_keys
from vault_service.orders.state import Signers
from vault_service.process import log_as_json, refuse_dumps, run_without_preemption
from vault_service.readiness import Readiness, show
from vault_service.storage.engine import Store, check_durability, open_store
from vault_service.storage.faults import explain
from vault_service.storage.rights import check_rights
from vault_service.storage.schema import check_schema
from vault_service.telling import TellOnce

_HEALTH_SECONDS: Final = 0.5  # between two looks at store and keys
_TIDY_SECONDS: Final = 60.0
_SETTLE_SECONDS: Final = 0.2
_ANSWER_SECONDS: Final = 2.0  # at the end, for the answers of calls that did not finish to reach their clients
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
    writer = LogWriter(log.fileno())
    log_as_json(writer)

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with serving(settings, writer) as server:
            gc.collect()
            gc.freeze()  # what is there now stays: looking through it again and again cost a tenth of each call
            gc.set_threshold(50_000, 20, 20)  # calls make no cycles; the default looks for some every few calls
            if on_serving is not None:
                on_serving(server)
            await stop.wait()

    try:
        uvloop.run(main())
    finally:
        writer.close()


@asynccontextmanager
async def serving(settings: Settings, log: LogWriter) -> AsyncIterator[Serving]:
    """A server that listens for as long as the block runs. What was begun is ended, whatever fails in between."""
    limits = settings.limits
    async with AsyncExitStack() as ends:

        def at_end(end: Callable[[], object]) -> None:
            ends.push_async_callback(asyncio.to_thread, end)

        vault = open_vault(settings.vault, vault_login(settings.vault))
        at_end(vault.close)
        database_login = DatabaseLogin(vault, settings.database.vault_role) if settings.database.vault_role else None
        if database_login is not None:
            at_end(database_login.stop)
        store = await asyncio.to_thread(_checked_store, settings, database_login)
        at_end(store.close)
        keyring = Keyring(vault.unwrap, settings.keys.lease_seconds)
        signers = Signers(frozenset(settings.policy.signers), settings.policy.signatures)
        losses = LossCheck(LogSigner(vault))
        control = Control(store, vault.public_keys, signers, keyring, losses)
        meter = RefusalMeter(settings.audit.refusals_per_minute)
        stream = HashStream(log)
        encryptions = EncryptionMeter()
        signer = LogSigner(vault)
        seal = Seal(store, signer, settings.audit.max_unsealed, settings.audit.sinks, lambda: control.state.losses)
        runner = Runner(store, control, keyring, meter, encryptions, stream, seal, limits)
        await asyncio.to_thread(_first_state, store, control)
        keyring.start()
        at_end(keyring.stop)
        replica = uuid.uuid4().hex
        await asyncio.to_thread(seal.start)
        at_end(seal.stop)
        sequencer = _sequencer(settings, store, signer, stream, replica, lambda: control.state.losses)
        for one in (sequencer, _shipper(settings, store, log, replica)):
            if one is not None:
                one.start()
                at_end(one.stop)
        at_end(runner.tidy)  # what is still recorded from here on is sealed
        if sequencer is not None:
            losses.kept_heads = sequencer.kept_heads
        orders = OrderProcessor(store, control, stream, replica)
        jobs = JobRunner(store, control, keyring, encryptions, stream, replica)
        pulse = Pulse(store, control, replica)
        for thread in (orders, jobs, pulse):  # the pulse ends first: `orders` signs this replica off
            thread.start()
            at_end(thread.stop)
        batcher = Batcher[Call](
            runner.execute,
            threads=limits.transactions_at_once if store.postgresql else 1,
            items_per_transaction=limits.items_per_transaction,
            calls_at_once=limits.calls_at_once,
            items_at_once=limits.items_at_once,
        )
        at_end(batcher.stop)
        readiness = Readiness(lambda: domains_without_keys(control, keyring, vault.login_problem))
        readiness.add("store", pulse.store_trouble)
        readiness.add("control", pulse.control_trouble)
        readiness.add("log", lambda: stream.trouble)
        readiness.add("seal", lambda: seal.trouble)
        people = PersonVerifier(settings.issuers)
        drain = Drain()
        longest = timedelta(days=settings.server.longest_client_certificate_days)
        chain = Chain(settings.server.trust_domain, people, meter, limits.least_seconds_left, longest, drain)
        certificates = CertificateFiles(settings.server)
        handlers = method_handlers(Servicer(batcher), chain)
        server, health, port = make_server(settings.server, certificates, limits, handlers)
        http = _http_port(settings, readiness)
        if http is not None:
            at_end(http.close)
        await set_health(health, serving=False)
        await server.start()
        ends.push_async_callback(_end_calls, server, drain, settings.server.drain_seconds)
        ends.push_async_callback(health.enter_graceful_shutdown)
        readiness.add("server", lambda: drain.trouble)
        metrics_port = http.port if http else None
        _log.info("listening", port=port, metrics_port=metrics_port, pid=os.getpid(), replica=replica)
        for work in (_watch_health(readiness, health), _tidy(runner), certificates.watch()):
            task = asyncio.create_task(work)
            ends.push_async_callback(_cancelled, task)
        yield Serving(listening.join(settings.server.host, port), metrics_port, lambda: readiness.report().ready)
    _log.info("stopped")


async def _watch_health(readiness: Readiness, health: health_aio.HealthServicer) -> None:
    """Tell gRPC's health service and the log what /readyz says."""
    told = TellOnce(_log)
    if readiness.report().ready:
        _log.info("serving")
    while True:
        report = readiness.report()
        show(report)
        await set_health(health, serving=report.ready)
        if report.ready:
            told.right("serving", "info")
        else:
            told.wrong("not serving", reasons=report.reasons)
        for domain, reason in report.domains.items():
            if reason:
                told.wrong("a domain cannot be served", about=domain, domain=domain, reason=reason)
            else:
                told.right("a domain can be served again", about=domain, domain=domain)
        await asyncio.sleep(_HEALTH_SECONDS)


async def _tidy(runner: Runner) -> None:
    while True:
        await asyncio.sleep(_TIDY_SECONDS)
        await asyncio.to_thread(runner.tidy)


async def _end_calls(server: grpc.aio.Server, drain: Drain, seconds: float) -> None:
    """Listen no more, let running calls end for so long, and answer the rest."""
    drain.begin()
    await asyncio.sleep(_SETTLE_SECONDS)  # what gRPC has read by now comes to `drain`, and is not cut off
    stopping = asyncio.create_task(server.stop(seconds + _ANSWER_SECONDS))
    await asyncio.sleep(_SETTLE_SECONDS)  # clients learn that their connections take no more
    drain.release()
    await drain.finish(seconds)
    await server.stop(_ANSWER_SECONDS)  # sooner than said above: only health's watchers may still be there
    await stopping


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _http_port(settings: Settings, readiness: Readiness) -> HttpPort | None:
    host, port = settings.server.metrics_host, settings.server.metrics_port
    if port < 0:
        return None
    try:
        return HttpPort(host, port, readiness)
    except (OSError, UnicodeError) as error:
        where, why = listening.join(host, port), listening.reason(error)
        raise ConfigurationError(f"server.metrics_host, server.metrics_port: cannot listen on {where}: {why}") from None


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
    """The sequencer; None where this server may not seal the log."""
    audit = settings.audit
    if not audit.sequence:
        return None
    witness = None
    if audit.witness_url and audit.witness_key_file:
        key = VerifierKey.read(audit.witness_key_file)
        witness = Witness(audit.witness_url, key, audit.witness_ca_file, audit.witness_timeout)
    return Sequencer(store, signer, stream, audit, settings.origin, replica, witness, losses)


def _shipper(settings: Settings, store: Store, log: LogWriter, replica: str) -> LogShipper | None:
    """The shipper of OCSF lines; None where nothing is to be shipped."""
    audit = settings.audit
    if audit.ship is None:
        return None
    destination = parse_destination(audit.ship, audit.ship_ca_file, log)
    return LogShipper(store, destination, replica, __version__, audit.max_unsealed)


def _first_state(store: Store, control: Control) -> None:
    """Read the log of orders; without Vault this waits for the first call instead."""
    with store.transaction() as tx:
        epoch = tx.epoch
    try:
        control.refresh(epoch, 0)
    except CallError as error:
        _log.warning("the log of orders cannot be verified yet", reason=error.reason)
