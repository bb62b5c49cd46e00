"""Every way in which Vault fails a server under load: keys serve, then KEYS_UNAVAILABLE in time, then all heals.

The failures are those of a real network and a real Vault: a proxy stands between the server and OpenBao.
"""

import threading
import time
from collections.abc import Iterator

import pytest

from ssn_vault_client import KeysUnavailableError, Ssn, SsnVaultError, TokenizeItem
from tests.support.proxy import Fault, Proxy
from tests.support.stack import JUSTIFICATION, Stack

LEASE = 2  # seconds
DEADLINE = 4.0  # of each call
HEAL = 5.0  # seconds from the cause's end
ITEM = TokenizeItem(Ssn("936-04-0001"))

FAULTS = {
    "sealed": Fault(status=503),
    "stand-by": Fault(status=307, headers={"Location": "http://127.0.0.1:9/v1/"}),
    "denied": Fault(path="transit/decrypt", status=403),
    "over its rate": Fault(status=429, headers={"Retry-After": "1"}),
    "broken": Fault(status=500),
    "a bad gateway": Fault(status=502),
    "hung": Fault(hang=True),
    "cut off": Fault(close=True),
    "dripping": Fault(drip=0.2),
    "late": Fault(delay=10.0),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Proxy]]:
    with Proxy() as proxy:
        settings = {
            "SSN_VAULT_VAULT__ADDRESS": proxy.address,
            "SSN_VAULT_VAULT__TIMEOUT": "1",
            "SSN_VAULT_KEYS__LEASE_SECONDS": str(LEASE),
        }
        stack = Stack(tmp_path_factory.mktemp("failures") / "home", settings=settings)
        proxy.upstream = lambda: stack.openbao.address
        with stack:
            yield stack, proxy


class Load:
    """One caller that asks on and on, and what became of each call: None, or its error; with its seconds."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.outcomes: list[tuple[SsnVaultError | None, float]] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with self._stack.client("sis", timeout=DEADLINE) as client:
            while not self.stop.is_set():
                began = time.monotonic()
                try:
                    (result,) = client.tokenize("k12", [ITEM])
                    answer = client.detokenize(
                        "k12",
                        [result.token or ""],
                        purpose="transcript-verification",
                        justification=JUSTIFICATION,
                    )
                    assert answer.results[0].ssn is not None
                    error: SsnVaultError | None = None
                except SsnVaultError as failed:
                    error = failed
                self.outcomes.append((error, time.monotonic() - began))
                self.stop.wait(0.02)

    def until(self, failing: bool, seconds: float, since: int = 0) -> None:
        """Wait until a call that began after the first `since` fails, or succeeds."""
        deadline = time.monotonic() + seconds
        while not any((error is not None) == failing for error, _ in self.outcomes[since + 1 :]):
            assert time.monotonic() < deadline, f"no call {'failed' if failing else 'succeeded'} within {seconds} s"
            time.sleep(0.02)


@pytest.mark.parametrize("what", FAULTS)
def test_calls_go_on_during_the_lease_then_say_so_in_time_then_heal(broken: tuple[Stack, Proxy], what: str) -> None:
    stack, proxy = broken
    stack.server.wait_ready()
    load = Load(stack)
    load.thread.start()
    try:
        load.until(failing=False, seconds=10)
        before = len(load.outcomes)
        proxy.fault = FAULTS[what]
        load.until(failing=False, seconds=LEASE / 2, since=before)  # a leased key serves without Vault
        load.until(failing=True, seconds=30, since=before)
        during = len(load.outcomes)
        proxy.heal()
        load.until(failing=False, seconds=HEAL, since=during)
    finally:
        proxy.heal()
        load.stop.set()
        load.thread.join(30)
    failures = [(error, seconds) for error, seconds in load.outcomes if error is not None]
    assert {type(error) for error, _ in failures} == {KeysUnavailableError}, what
    assert max(seconds for _, seconds in failures) < DEADLINE
    assert stack.server.is_running()
