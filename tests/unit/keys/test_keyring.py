"""Keys live under a lease: renewed at half of it, gone at its end, back when Vault is back."""

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from vault_service.errors import CallError, Reason
from vault_service.keys import keyring as keyring_module
from vault_service.keys.keyring import Keyring
from vault_service.keys.names import KeyKind, KeyName
from vault_service.keys.transit import VaultRefused, VaultUnreachable

LEASE = 300.0
DATA = KeyName("k12", KeyKind.DATA, 1)
DATA_2 = KeyName("k12", KeyKind.DATA, 2)
INDEX = KeyName("k12", KeyKind.INDEX, 1)


class Clock:
    """Monotonic seconds that a test moves; counts how often the keyring's own thread looked."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.looks = 0

    def monotonic(self) -> float:
        if threading.current_thread().name == "keyring":
            self.looks += 1
        return self.now


class Unwrapping:
    """Vault's unwrap with a state: away or not, some keys refused; remembers what was asked and when."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.away = False
        self.refused: set[str] = set()
        self.asked: list[tuple[str, float]] = []

    def __call__(self, name: str, wrapped: str) -> bytes:
        self.asked.append((name, self.clock.now))
        if self.away:
            raise VaultUnreachable("transit/decrypt: no connection")
        if name in self.refused:
            raise VaultRefused("transit/decrypt: status 400")
        return (name + wrapped).encode().ljust(32, b"\0")[:32]

    def times(self, name: KeyName) -> list[float]:
        return [at for asked, at in self.asked if asked == name.transit]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(keyring_module, "time", SimpleNamespace(monotonic=clock.monotonic))
    monkeypatch.setattr(keyring_module, "_RETRY_SECONDS", 0.01)
    return clock


@pytest.fixture
def vault(clock: Clock) -> Unwrapping:
    return Unwrapping(clock)


@pytest.fixture
def keyring(vault: Unwrapping) -> Iterator[Keyring]:
    keyring = Keyring(vault, LEASE)
    yield keyring
    keyring.stop()


def _wrapped(*names: KeyName) -> dict[KeyName, str]:
    return {name: f"vault:v1:{name.version}" for name in names}


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


def _settle(keyring: Keyring, clock: Clock, *names: KeyName) -> None:
    """Wake the keyring's thread until it has looked at everything under the present time."""
    begun = clock.looks

    def looked() -> bool:
        keyring.want(_wrapped(*names))
        return clock.looks >= begun + 12 * len(names)

    _until(looked)


def _unavailable(keyring: Keyring, name: KeyName) -> bool:
    try:
        keyring.get(name)
    except CallError as error:
        return error.reason is Reason.KEYS_UNAVAILABLE
    return False


def test_a_wanted_key_is_there_when_want_returns(keyring: Keyring, vault: Unwrapping) -> None:
    assert _unavailable(keyring, DATA)
    keyring.want(_wrapped(DATA, INDEX))
    key = keyring.get(DATA)
    assert key.version == 1
    assert key.secret == vault(DATA.transit, "vault:v1:1")
    nonce = bytes(12)
    assert AESGCM(key.secret).decrypt(nonce, key.cipher.encrypt(nonce, b"x", b"a"), b"a") == b"x"
    assert keyring.complete


def test_a_key_that_nobody_wants_is_unavailable(keyring: Keyring) -> None:
    keyring.want(_wrapped(DATA))
    assert _unavailable(keyring, INDEX)
    assert _unavailable(keyring, DATA_2)


def test_a_new_version_is_loaded_and_the_old_ones_are_not_asked_for_again(keyring: Keyring, vault: Unwrapping) -> None:
    keyring.want(_wrapped(DATA))
    keyring.want(_wrapped(DATA, DATA_2))
    assert keyring.get(DATA_2).version == 2
    assert len(vault.times(DATA)) == 1


def test_a_version_that_is_no_longer_in_force_is_forgotten(keyring: Keyring) -> None:
    keyring.want(_wrapped(DATA, DATA_2))
    keyring.want(_wrapped(DATA_2))
    assert _unavailable(keyring, DATA)
    assert set(keyring._keys) == {DATA_2}


def test_keys_serve_until_the_lease_ends_and_not_after(keyring: Keyring, vault: Unwrapping, clock: Clock) -> None:
    keyring.want(_wrapped(DATA))
    vault.away = True
    clock.now += LEASE - 0.001
    assert not _unavailable(keyring, DATA)
    assert keyring.complete
    clock.now += 0.001
    assert _unavailable(keyring, DATA)
    assert not keyring.complete


def test_when_the_lease_ends_the_secret_leaves_memory(keyring: Keyring, vault: Unwrapping, clock: Clock) -> None:
    keyring.want(_wrapped(DATA, INDEX))
    keyring.start()
    vault.away = True
    clock.now += LEASE
    _settle(keyring, clock, DATA, INDEX)
    assert keyring._keys == {}


def test_the_lease_runs_from_before_the_answer(vault: Unwrapping, clock: Clock) -> None:
    def slow(name: str, wrapped: str) -> bytes:
        secret = vault(name, wrapped)
        clock.now += 100  # Vault took its time
        return secret

    keyring = Keyring(slow, LEASE)
    keyring.want(_wrapped(DATA))
    clock.now += LEASE - 100
    assert _unavailable(keyring, DATA)


def test_a_key_is_renewed_at_half_of_its_lease_and_not_before(
    keyring: Keyring, vault: Unwrapping, clock: Clock
) -> None:
    keyring.want(_wrapped(DATA))
    keyring.start()
    clock.now += LEASE / 2 - 1
    _settle(keyring, clock, DATA)
    assert vault.times(DATA) == [1000.0]
    clock.now += 1
    _settle(keyring, clock, DATA)
    assert vault.times(DATA) == [1000.0, 1000.0 + LEASE / 2]
    clock.now += LEASE - 1  # the new lease
    vault.away = True
    assert not _unavailable(keyring, DATA)


def test_it_heals_by_itself_when_vault_is_back(keyring: Keyring, vault: Unwrapping, clock: Clock) -> None:
    keyring.want(_wrapped(DATA))
    keyring.start()
    vault.away = True
    clock.now += LEASE
    _settle(keyring, clock, DATA)
    assert _unavailable(keyring, DATA)
    vault.away = False
    _until(lambda: keyring.complete)  # nobody wakes it
    assert not _unavailable(keyring, DATA)


def test_a_server_that_starts_without_vault_gets_its_keys_later(keyring: Keyring, vault: Unwrapping) -> None:
    vault.away = True
    keyring.want(_wrapped(DATA, INDEX))
    assert _unavailable(keyring, DATA)
    keyring.start()
    vault.away = False
    _until(lambda: keyring.complete)


def test_a_key_that_vault_refuses_for_good_leaves_the_others_alone(
    keyring: Keyring, vault: Unwrapping, clock: Clock
) -> None:
    vault.refused.add(DATA.transit)
    keyring.want(_wrapped(DATA, INDEX, DATA_2))
    assert _unavailable(keyring, DATA)
    assert not _unavailable(keyring, INDEX)
    assert not _unavailable(keyring, DATA_2)
    assert not keyring.complete
    keyring.start()
    clock.now += LEASE / 2
    _until(lambda: len(vault.times(INDEX)) == 2)  # still renewed
    vault.refused.clear()
    _until(lambda: keyring.complete)


def refused_by_vault() -> float:
    return REGISTRY.get_sample_value("ssn_vault_keys_refused") or 0.0


def test_a_key_that_vault_refuses_is_told_once_while_it_is_still_in_memory(
    keyring: Keyring, vault: Unwrapping, clock: Clock
) -> None:
    keyring.want(_wrapped(DATA, INDEX))
    assert keyring.seconds_left == LEASE
    keyring.start()
    with capture_logs() as logs:
        vault.refused.add(DATA.transit)
        clock.now += LEASE / 2
        _settle(keyring, clock, DATA, INDEX)
        _until(lambda: len(vault.times(DATA)) > 5)
        assert not _unavailable(keyring, DATA)
        assert keyring.refused == (DATA,)
        assert refused_by_vault() == 1
        (told,) = [log for log in logs if log["log_level"] == "critical"]
        assert (told["key"], told["seconds_left"]) == (DATA.transit, LEASE / 2)
        assert keyring.seconds_left == LEASE / 2
        vault.refused.clear()
        _until(lambda: keyring.refused == ())
    assert refused_by_vault() == 0
    assert keyring.seconds_left == LEASE


def test_a_vault_that_is_away_is_no_refusal(keyring: Keyring, vault: Unwrapping) -> None:
    vault.away = True
    with capture_logs() as logs:
        keyring.want(_wrapped(DATA))
        keyring.want(_wrapped(DATA))
    assert [log["log_level"] for log in logs] == ["warning"]
    assert keyring.refused == ()
    assert keyring.seconds_left == 0


def test_a_refused_key_that_nobody_wants_any_more_is_no_alarm(keyring: Keyring, vault: Unwrapping) -> None:
    vault.refused.add(DATA.transit)
    keyring.want(_wrapped(DATA))
    assert refused_by_vault() == 1
    keyring.want({})
    assert keyring.refused == ()
    assert refused_by_vault() == 0


def test_while_vault_is_away_it_is_asked_once_and_not_for_every_key(keyring: Keyring, vault: Unwrapping) -> None:
    vault.away = True
    keyring.want(_wrapped(DATA, DATA_2, INDEX))
    assert len(vault.asked) == 1


def test_stopping_forgets_every_key(keyring: Keyring) -> None:
    keyring.want(_wrapped(DATA, INDEX))
    keyring.start()
    keyring.stop()
    assert _unavailable(keyring, DATA)
    assert keyring._keys == {}


def test_a_key_does_not_print(keyring: Keyring) -> None:
    keyring.want(_wrapped(DATA))
    key = keyring.get(DATA)
    assert repr(key) == f"{key}" == "Key(version=1)"
    assert key.secret.hex() not in repr(vars(keyring))
