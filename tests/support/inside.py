"""The service's engine inside the test's own process, on a stack's database and Vault: to look at single steps."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from tests.support.stack import Stack
from vault_service.app import open_vault, vault_login
from vault_service.audit.refusals import RefusalMeter
from vault_service.audit.seal import Seal
from vault_service.audit.stream import HashStream
from vault_service.config import load_settings
from vault_service.keys.encryptions import EncryptionMeter
from vault_service.keys.keyring import Keyring
from vault_service.keys.log_signer import LogSigner
from vault_service.log_writer import LogWriter
from vault_service.operations.runner import Runner
from vault_service.orders.control import Control
from vault_service.orders.losses import LossCheck
from vault_service.orders.state import Signers
from vault_service.storage.engine import open_store


@contextmanager
def runner_inside(stack: Stack) -> Iterator[Runner]:
    """A runner as `app` wires it, without server and threads."""
    settings = load_settings(stack.home.config_file)
    store = open_store(settings.database.full_url())
    vault = open_vault(settings.vault, vault_login(settings.vault))
    keyring = Keyring(vault.unwrap, settings.keys.lease_seconds)
    signers = Signers(frozenset(settings.policy.signers), settings.policy.signatures)
    control = Control(store, vault.public_keys, signers, keyring, LossCheck(LogSigner(vault)))
    try:
        seal = Seal(store, LogSigner(vault), settings.audit.max_unsealed, [])
        seal.look()
        meters = RefusalMeter(60), EncryptionMeter()
        yield Runner(store, control, keyring, *meters, unread_stream(), seal, settings.limits)
    finally:
        vault.close()
        store.close()


@cache
def unread_log() -> LogWriter:
    """A log that nobody reads; one for all tests."""
    return LogWriter(os.open(os.devnull, os.O_WRONLY))


def unread_stream() -> HashStream:
    """A log stream that nobody reads."""
    return HashStream(unread_log())
