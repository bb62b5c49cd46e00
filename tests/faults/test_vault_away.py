"""Promise 8: Vault away under load. Calls go on during the lease, then KEYS_UNAVAILABLE; it heals by itself."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssn_vault_client import KeysUnavailableError, Ssn, SsnVaultError, TokenizeItem
from tests.conftest import new_database_url
from tests.support.stack import JUSTIFICATION, Stack

LEASE_SECONDS = 6


@pytest.fixture
def own(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    settings = {"SSN_VAULT_KEYS__LEASE_SECONDS": str(LEASE_SECONDS)}
    with Stack(tmp_path / "home", database_url=new_database_url(database, request), settings=settings) as running:
        yield running


class Load:
    """Tokenizes and detokenizes without a pause, and keeps what happened, with its time."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.outcomes: list[tuple[float, str]] = []

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        with self._stack.client("sis") as client:
            while not self._stop.wait(0.01):
                number = (number + 1) % 10_000
                try:
                    (result,) = client.tokenize("k12", [TokenizeItem(Ssn(f"946-20-{number:04}"))])
                    disclosure = client.detokenize(
                        "k12",
                        [result.token or ""],
                        purpose="transcript-verification",
                        justification=JUSTIFICATION,
                    )
                    assert disclosure.results[0].ssn is not None
                    outcome = "OK"
                except SsnVaultError as error:
                    outcome = f"{error.status} {error.reason}"
                self.outcomes.append((time.monotonic(), outcome))

    def since(self, moment: float) -> list[str]:
        return [outcome for at, outcome in self.outcomes if at >= moment]

    def wait_for(self, wanted: str, since: float, seconds: float = 30) -> float:
        """When `wanted` first happened after `since`."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for at, outcome in list(self.outcomes):
                if at >= since and outcome == wanted:
                    return at
            time.sleep(0.05)
        raise AssertionError(f"never {wanted}: {sorted(set(self.since(since)))}")


def test_stopped_vault_serves_during_the_lease_then_refuses_and_heals(own: Stack) -> None:
    with Load(own) as load:
        load.wait_for("OK", 0)
        own.openbao.stop()
        stopped = time.monotonic()
        gone = load.wait_for("UNAVAILABLE KEYS_UNAVAILABLE", stopped)
        assert set(load.since(stopped)) == {"OK", "UNAVAILABLE KEYS_UNAVAILABLE"}
        time.sleep(0.5)
        assert set(load.since(gone + 0.2)) == {"UNAVAILABLE KEYS_UNAVAILABLE"}
        own.openbao.start()
        started = time.monotonic()
        healed = load.wait_for("OK", started)
        time.sleep(0.5)
        assert set(load.since(healed)) == {"OK"}
    own.server.wait_ready()


def test_sealed_vault_is_the_same_as_none(own: Stack) -> None:
    # An OpenBao that was initialised while it ran tries its seal key once more 5 seconds after it started, and would
    # open again by itself; one that starts with its data does so once.
    own.openbao.stop()
    own.openbao.start()
    own.server.wait_ready()
    with own.client("sis") as client:
        assert client.tokenize("k12", [TokenizeItem(Ssn("946-20-0003"))])[0].token
        own.root().write("sys/seal")
        time.sleep(LEASE_SECONDS + 0.5)
        with pytest.raises(KeysUnavailableError) as caught:
            client.tokenize("k12", [TokenizeItem(Ssn("946-20-0001"))])
        assert caught.value.retryable
        own.openbao.stop()
        own.openbao.start()  # a static seal opens by itself
        own.server.wait_ready()
        assert client.tokenize("k12", [TokenizeItem(Ssn("946-20-0001"))])[0].token


def test_a_server_that_starts_without_vault_waits_for_it(own: Stack) -> None:
    own.server.stop()
    own.openbao.stop()
    own.server.start(wait=False)
    own.server.wait_listening()
    assert not own.server.is_ready()
    with own.client("sis") as client, pytest.raises(SsnVaultError) as caught:
        client.tokenize("k12", [TokenizeItem(Ssn("946-20-0002"))])
    assert caught.value.reason == "KEYS_UNAVAILABLE"
    own.openbao.start()
    own.server.wait_ready()
    with own.client("sis") as client:
        assert client.tokenize("k12", [TokenizeItem(Ssn("946-20-0002"))])[0].token
