"""`ssn-vault certs`: certificates of the server and of clients, signed by Vault for keys made here."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from vault_service.app import open_vault
from vault_service.cli.admin import Where
from vault_service.cli.common import Config, Exit, Home, command, console, stop
from vault_service.cli.vault_setup import VaultTokenFile, vault_admin
from vault_service.errors import ConfigurationError
from vault_service.keys.authority import (
    CertificatePaths,
    sign_client_certificate,
    sign_server_certificate,
    write_certificate,
)
from vault_service.keys.resources import SetupRefusedError
from vault_service.keys.transit import AppRole, Login
from vault_service.keys.values import seconds_in

app = typer.Typer(help="Certificates of the server and of clients.", no_args_is_help=True)


@app.callback()
def certs() -> None:
    """Certificates of the server and of clients."""


@app.command()
@command
def issue(
    out: Annotated[Path, typer.Option("--out", help="Directory for NAME.pem, NAME.key and ca.pem.")],
    client: Annotated[str | None, typer.Option("--client", help="Client of the policy.")] = None,
    server: Annotated[bool, typer.Option("--server", help="The server itself.")] = False,
    dns: Annotated[list[str] | None, typer.Option("--dns", help="DNS name of the server; may be repeated.")] = None,
    ip: Annotated[list[str] | None, typer.Option("--ip", help="IP address of the server; may be repeated.")] = None,
    ttl: Annotated[str, typer.Option("--ttl", help="Its life: 24h, 90m, 3d.")] = "24h",
    role_id_file: Annotated[Path | None, typer.Option("--role-id-file", help="Log in with this AppRole.")] = None,
    secret_id_file: Annotated[Path | None, typer.Option("--secret-id-file", help="Its secret id.")] = None,
    home: Home = None,
    config: Config = None,
    token_file: VaultTokenFile = None,
) -> None:
    """Issue a certificate, or replace the one that is there. The private key is made here and never leaves.

    A running server takes up its new files by itself at the next connection; connections that are open go on.
    Files that are there keep their owner, group and mode.
    """
    if server == (client is not None):
        raise ConfigurationError("one of --client NAME and --server says whose certificate it is")
    if client is not None and (dns or ip):
        raise ConfigurationError("--dns and --ip are for --server: a client is named by --client alone")
    if client in ("ca", "server"):
        raise ConfigurationError("a client of this name would have the files of the authority or the server")
    try:
        seconds = seconds_in(ttl)
        addresses = [str(ip_address(address)) for address in ip or ()]
    except ValueError:
        raise ConfigurationError("--ttl is like 24h, 90m or 3d, and --ip an IP address") from None
    where = Where(home, config, token_file=token_file)
    settings = where.settings()
    vault = open_vault(settings.vault, _login(where, role_id_file, secret_id_file))
    try:
        if client is not None:
            issued = sign_client_certificate(vault, settings.server.trust_domain, client, seconds)
        else:
            issued = sign_server_certificate(vault, dns or [], addresses, seconds)
        paths = CertificatePaths.in_directory(out.absolute(), client or "server")
        write_certificate(paths, issued)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    except SetupRefusedError as error:
        stop(Exit.REFUSED, f"refused: {error}")
    except OSError as error:
        raise ConfigurationError(
            f"--out cannot be written, with its files' owners as they are: {error.strerror}"
        ) from None
    finally:
        vault.close()
    console.print(f"certificate: {paths.cert}\nkey: {paths.key}\nauthority: {paths.ca}", markup=False, soft_wrap=True)
    console.print(f"serial: {issued.serial}\nends: {issued.ends:%Y-%m-%dT%H:%M:%SZ}", markup=False, soft_wrap=True)


def _login(where: Where, role_id_file: Path | None, secret_id_file: Path | None) -> Login:
    if role_id_file is not None and secret_id_file is not None:
        return AppRole(role_id_file, secret_id_file)
    if role_id_file is not None or secret_id_file is not None:
        raise ConfigurationError("--role-id-file and --secret-id-file belong together")
    return vault_admin(where)
