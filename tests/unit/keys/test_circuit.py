"""The circuit against a Vault that hangs, and what is tried again."""

import time

import pytest

from vault_service.keys.answers import (
    VaultCircuitOpen,
    VaultDenied,
    VaultError,
    VaultRateLimited,
    VaultRefused,
    VaultSealed,
    VaultTimeout,
)
from vault_service.keys.circuit import Circuit, Entry, jittered, retried

LONG = 3600.0


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    return Circuit(clock, limit=3, window=30.0, pause=1.0)


def fail(circuit: Circuit, times: int) -> None:
    for _ in range(times):
        entry = circuit.enter()
        assert entry is not Entry.REFUSED
        circuit.failed(entry)


def test_it_opens_after_three_attempts_without_an_answer_and_not_before(circuit: Circuit) -> None:
    fail(circuit, 2)
    assert circuit.enter() is Entry.FREE
    circuit.failed(Entry.FREE)
    assert circuit.enter() is Entry.REFUSED


def test_an_answer_in_between_starts_the_count_anew(circuit: Circuit) -> None:
    fail(circuit, 2)
    circuit.answered()
    fail(circuit, 2)
    assert circuit.enter() is Entry.FREE


def test_failures_of_long_ago_do_not_count(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, 2)
    clock.now += 31
    fail(circuit, 2)
    assert circuit.enter() is Entry.FREE


def test_after_the_pause_one_probe_at_a_time(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, 3)
    clock.now += 0.9
    assert circuit.enter() is Entry.REFUSED
    clock.now += 0.2
    assert circuit.enter() is Entry.PROBE
    assert [circuit.enter() for _ in range(3)] == [Entry.REFUSED] * 3  # while the probe is under way
    circuit.failed(Entry.PROBE)
    assert circuit.enter() is Entry.REFUSED  # another pause
    clock.now += 1.1
    assert circuit.enter() is Entry.PROBE
    circuit.answered()
    assert [circuit.enter() for _ in range(3)] == [Entry.FREE] * 3


def test_attempts_sent_before_it_opened_do_not_make_it_longer(circuit: Circuit, clock: Clock) -> None:
    entries = [circuit.enter() for _ in range(5)]
    for entry in entries[:3]:
        circuit.failed(entry)
    clock.now += 0.9
    for entry in entries[3:]:
        circuit.failed(entry)
    clock.now += 0.2
    assert circuit.enter() is Entry.PROBE


def test_a_jitter_stays_between_its_bounds_and_is_not_always_the_same() -> None:
    drawn = {jittered(0.5, 0.7) for _ in range(50)}
    assert all(0.5 <= one <= 0.7 for one in drawn)
    assert len(drawn) > 10


class Attempts:
    """Fails with these errors, one after the other, then succeeds."""

    def __init__(self, *errors: VaultError) -> None:
        self.errors = list(errors)
        self.made = 0

    def __call__(self) -> str:
        self.made += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


def test_what_passes_is_tried_three_times() -> None:
    attempts = Attempts(VaultSealed("x"), VaultTimeout("x"))
    assert retried(attempts, time.monotonic() + LONG) == "answer"
    assert attempts.made == 3
    attempts = Attempts(*[VaultSealed("x")] * 3)
    with pytest.raises(VaultSealed):
        retried(attempts, time.monotonic() + LONG)
    assert attempts.made == 3


@pytest.mark.parametrize("error", [VaultDenied("x"), VaultRefused("x"), VaultCircuitOpen("x")])
def test_what_does_not_pass_is_tried_once(error: VaultError) -> None:
    attempts = Attempts(error)
    with pytest.raises(type(error)):
        retried(attempts, time.monotonic() + LONG)
    assert attempts.made == 1


def test_no_pause_goes_beyond_the_deadline() -> None:
    attempts = Attempts(VaultSealed("x"), VaultSealed("x"))
    with pytest.raises(VaultSealed):
        retried(attempts, time.monotonic() + 0.01)
    assert attempts.made == 1


def test_a_wait_that_vault_asks_for_is_kept_or_not_begun() -> None:
    patient, hurried = VaultRateLimited("x"), VaultRateLimited("x")
    patient.retry_after = 0.2
    hurried.retry_after = LONG
    began = time.monotonic()
    assert retried(Attempts(patient), began + LONG) == "answer"
    assert time.monotonic() - began >= 0.2
    attempts = Attempts(hurried)
    with pytest.raises(VaultRateLimited):
        retried(attempts, time.monotonic() + 60)
    assert attempts.made == 1
