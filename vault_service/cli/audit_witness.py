"""`ssn-vault audit witness`: cosign checkpoints on a host that no operator of the log or its database rules."""

import signal
import sys
import threading
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Self

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vault_service.audit.loss import LOSS_PATTERN, parse_loss
from vault_service.audit.witness import WitnessServer, WitnessState
from vault_service.cli.admin import Where
from vault_service.cli.common import Exit, Home, command, stop
from vault_service.errors import ConfigurationError
from vault_service.log_writer import LogWriter
from vault_service.process import log_as_json

_STRICT: Final = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_Name = Annotated[str, Field(pattern=r"^[!-*,-~]{1,128}$")]


class _Log(BaseModel):
    model_config = _STRICT

    origin: _Name
    public_key: Path  # PEM, one block for each version; read again at every request
    # Losses that this witness's operator has looked at and accepts: each the line that `audit accept-loss` printed.
    accepted_losses: tuple[Annotated[str, Field(pattern=LOSS_PATTERN)], ...] = ()


class _WitnessSettings(BaseModel):
    """What `audit witness --config FILE` takes: a file of its own, for a host that knows nothing of the server."""

    model_config = _STRICT

    name: _Name  # stands in every cosignature
    directory: Path  # its key and what it has cosigned
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    cert: Path | None = None  # PEM chain and key: needed beyond this machine
    key: Path | None = None
    logs: tuple[_Log, ...]

    @model_validator(mode="after")
    def _tls_beyond_this_machine(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key belong together")
        if self.cert is None and self.host not in _LOOPBACK:
            raise ValueError("beyond this machine a witness needs cert and key")
        return self

    @property
    def tls(self) -> tuple[Path, Path] | None:
        """Certificate chain and key, if it has them."""
        return (self.cert, self.key) if self.cert and self.key else None


@command
def witness(
    home: Home = None,
    config: Annotated[Path | None, typer.Option("--config", help="The witness's own configuration file.")] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="With --home: where to listen; 0: free.")] = 0,
) -> None:
    """Cosign checkpoints of logs that only grow, until SIGTERM. Prints its address and where its key is."""
    if home is not None:
        settings = Where(home).settings()
        log = _Log(origin=settings.origin, public_key=home / "audit.pub.pem")
        name = f"witness.{settings.server.trust_domain}"
        found = _WitnessSettings(name=name, directory=home / "witness", port=port, logs=(log,))
    elif config is not None:
        found = _read(config)
    else:
        stop(Exit.USAGE, "--config FILE is the witness's own configuration; --home DIR is for development")
    log_as_json(LogWriter(sys.stderr.fileno()))
    losses = {log.origin: list(map(parse_loss, log.accepted_losses)) for log in found.logs}
    logs = {log.origin: log.public_key for log in found.logs}
    state = WitnessState(found.directory, found.name, logs, losses)
    with state.locked():
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        try:
            server = WitnessServer(state, found.host, found.port, found.tls)
        except OSError as error:
            raise ConfigurationError(f"{found.host}:{found.port} cannot be served: {type(error).__name__}") from None
        typer.echo(f"witness: {server.url} key: {state.key_file.absolute()}")
        ended.wait()
        server.close()


def _read(file: Path) -> _WitnessSettings:
    try:
        content: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
        return _WitnessSettings(**content)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)]
        raise ConfigurationError("the configuration is not valid:\n  " + "\n  ".join(lines)) from None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"the configuration file cannot be read: {type(error).__name__}") from None
