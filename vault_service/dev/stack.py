"""`ssn-vault dev`: the whole stack on one machine, as one process with OpenBao as its child.

lock the home -> start OpenBao -> prepare Vault, certificates, logins, database -> serve -> on the first
start two people sign the sample policy and the keys are made -> ready.json, "ready: ADDRESS"
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from vault_service.app import Serving, run_server
from vault_service.cli.admin import DEFAULT_PERSON, Where, admin
from vault_service.cli.key_work import KeyWork
from vault_service.cli.ordering import carry_out
from vault_service.config import load_settings
from vault_service.dev.home import Home
from vault_service.dev.openbao import OpenBao
from vault_service.errors import SsnVaultError
from vault_service.files import own_file
from vault_service.keys.transit import TokenValue, Vault
from vault_service.orders.order import Action

_READY_SECONDS = 60.0


def run_stack(
    directory: Path, *, port: int = 0, database_url: str | None = None, on_ready: Callable[[str], None] = print
) -> None:
    """Run the stack until SIGTERM or SIGINT; `on_ready` gets the address, in another thread.

    ConfigurationError when the home is taken or something cannot be prepared. Everything ends with it.
    """
    home = Home(directory)
    with home.locked(), OpenBao(home.openbao_directory) as openbao:
        root = Vault(openbao.address, TokenValue(openbao.root_token))
        certificates = home.prepare(root, port, database_url)
        root.close()

        def make_ready(serving: Serving) -> None:
            try:
                _first_policy(home)
                deadline = time.monotonic() + _READY_SECONDS
                while not serving.ready():
                    if time.monotonic() > deadline:
                        raise SsnVaultError(f"the server is not ready; see {home.log_file}")
                    time.sleep(0.05)
                home.announce(serving.address, certificates, openbao.address, database_url)
                on_ready(serving.address)
            except Exception as error:  # noqa: BLE001 - nobody joins this thread: the failure is told below
                failures.append(error)
                os.kill(os.getpid(), signal.SIGTERM)

        failures: list[Exception] = []

        def on_serving(serving: Serving) -> None:
            threading.Thread(target=make_ready, args=(serving,), name="ready", daemon=True).start()

        with own_file(home.log_file, "a") as log:
            run_server(load_settings(home.config_file), on_serving, log)
        if failures:
            raise failures[0]


def _first_policy(home: Home) -> None:
    """Put policy.yaml in force when no policy is, and make the keys that are missing."""
    first, second, *_ = home.signers()
    where = Where(home=home.directory, person=first)
    with admin(where) as one:
        if one.state().policy_version == 0:
            arguments = {"base": 0, "policy": home.policy_file.read_text("utf-8")}
            carry_out(one, where, Action.APPLY_POLICY, arguments, second)
    where = Where(home=home.directory, person=DEFAULT_PERSON)
    with admin(where) as one:
        KeyWork(one, where).create_missing()
