"""What was refused is not shown again at once, and an AppRole is never brought near Vault's lockout."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from vault_service.keys.answers import (
    VaultDenied,
    VaultLockedOut,
    VaultLoginFile,
    VaultLoginRefused,
    VaultSealed,
)
from vault_service.keys.methods import AppRole, Certificate, Jwt, Kubernetes, Login, TokenFile
from vault_service.keys.refusals import Refusals

HOUR = 3600.0
LOCKS_AT, COUNTED = 5, 15 * 60.0  # OpenBao's defaults: wrong secret ids, and seconds between two that count together


class Lockout:
    """How OpenBao counts (failedUserLoginProcess): five, each within 15 minutes of the one before, lock the role."""

    def __init__(self) -> None:
        self.count = 0
        self.last = float("-inf")
        self.locked = False

    def failed(self, now: float) -> None:
        self.count = self.count + 1 if now - self.last <= COUNTED else 1
        self.last = now
        self.locked = self.locked or self.count >= LOCKS_AT


class World:
    """A login with its files, a clock that a test moves, and what was tried when."""

    def __init__(self, login: Login, *files: Path) -> None:
        self.now = 1000.0
        self.files = files
        for file in files:
            file.write_text("wrong")
        self.refusals = Refusals(login, lambda: self.now)
        self.tried: list[float] = []
        self.lockout = Lockout()

    def call(self, error: VaultDenied | None = None) -> bool:
        """One call that needs a login; whether Vault was asked."""
        try:
            self.refusals.check()
        except VaultLoginRefused:
            return False
        self.tried.append(self.now)
        self.lockout.failed(self.now)
        self.refusals.failed(error or VaultLoginRefused("auth/approle/login: the secret id is not accepted"))
        return True

    def wait(self, seconds: float, step: float = 1.0) -> None:
        """Calls all the time, as a server makes them."""
        for _ in range(int(seconds / step)):
            self.call()
            self.now += step


@pytest.fixture
def approle(tmp_path: Path) -> World:
    files = tmp_path / "role", tmp_path / "secret"
    return World(AppRole(*files), *files)


def login_of(kind: str, directory: Path) -> World:
    one, other = directory / "one", directory / "other"
    logins: dict[str, tuple[Login, tuple[Path, ...]]] = {
        "token": (TokenFile(one), (one,)),
        "approle": (AppRole(one, other), (one, other)),
        "jwt": (Jwt("r", one), (one,)),
        "kubernetes": (Kubernetes("r", one), (one,)),
        "cert": (Certificate(one, other), (one, other)),
    }
    login, files = logins[kind]
    return World(login, *files)


METHODS = ["token", "approle", "jwt", "kubernetes", "cert"]


def test_a_wrong_secret_id_is_tried_once_in_a_quarter_of_an_hour(approle: World) -> None:
    approle.wait(COUNTED)
    assert approle.tried == [1000.0]


def test_a_wrong_secret_id_never_locks_the_role_however_long_it_lasts(approle: World) -> None:
    approle.wait(3 * 24 * HOUR, step=5.0)
    assert not approle.lockout.locked
    assert len(approle.tried) > 10, "it is tried at a slow rate: Vault itself may have been wrong"
    pauses = [later - earlier for earlier, later in zip(approle.tried, approle.tried[1:], strict=False)]
    assert min(pauses) > COUNTED
    assert max(pauses) < 4 * HOUR


def test_files_that_change_all_the_time_do_not_lock_the_role_either(approle: World) -> None:
    for number in range(2 * 3600):
        approle.files[1].write_text(f"wrong {number}")
        approle.call()
        approle.now += 1
    assert not approle.lockout.locked
    assert len(approle.tried) >= 6


@pytest.mark.parametrize("kind", METHODS)
def test_whatever_the_method_a_refusal_is_not_repeated_per_call(kind: str, tmp_path: Path) -> None:
    world = login_of(kind, tmp_path)
    world.wait(600, step=0.14)
    assert len(world.tried) <= 5
    assert world.refusals.problem is not None


@pytest.mark.parametrize("kind", METHODS)
def test_each_file_that_changes_is_shown_at_once(kind: str, tmp_path: Path) -> None:
    world = login_of(kind, tmp_path)
    assert world.call()
    assert not world.call()
    for file in world.files:
        file.write_text("another")
        assert world.call()
        assert not world.call()


def test_a_file_that_was_written_again_with_the_same_content_is_shown_again(approle: World) -> None:
    """So that a person can say: Vault is mended, try now."""
    assert approle.call()
    fresh = approle.files[1].with_name("fresh")
    fresh.write_text("wrong")
    fresh.replace(approle.files[1])
    assert approle.call()


def test_a_locked_role_is_named_and_tried_every_few_minutes(approle: World) -> None:
    with capture_logs() as logs:
        assert approle.call(VaultLockedOut("auth/approle/login: locked"))
    (log,) = logs
    assert (log["log_level"], log["locked"]) == ("error", True)
    assert "locked" in (approle.refusals.problem or "")
    approle.now += 150
    assert approle.call()


def test_what_passes_by_itself_is_no_refusal(approle: World) -> None:
    approle.refusals.check()
    approle.refusals.failed(VaultSealed("sealed"))
    approle.refusals.check()
    assert approle.refusals.problem is None


def test_a_file_that_is_not_there_is_named_once_and_costs_no_pause(approle: World) -> None:
    with capture_logs() as logs:
        for _ in range(5):
            approle.refusals.check()
            approle.refusals.failed(VaultLoginFile("the login file secret cannot be read or is empty"))
    assert len(logs) == 1
    assert "cannot be read" in (approle.refusals.problem or "")
    approle.refusals.succeeded()
    assert approle.refusals.problem is None


def test_after_a_login_everything_is_forgotten(approle: World) -> None:
    for number in range(3):
        approle.files[1].write_text(f"wrong {number}")
        assert approle.call()
    approle.refusals.succeeded()
    assert approle.refusals.problem is None
    assert approle.call()
