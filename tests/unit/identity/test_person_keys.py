"""Where an issuer's keys come from; without them nothing can be said of a token."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from tests.support.servers import until
from tests.unit.identity.tokens import AUDIENCE, HOLDS, INVALID, ISSUER, jwks, settings_of, token_of
from vault_service.config import IssuerSettings
from vault_service.errors import CallError, Reason
from vault_service.identity import issuer_keys as keys_module
from vault_service.identity import person as person_module
from vault_service.identity.caller import PersonClaim
from vault_service.identity.person import PersonVerifier


def _unavailable(verify: Callable[[], PersonClaim]) -> bool:
    try:
        verify()
    except CallError as error:
        return error.reason is Reason.KEYS_UNAVAILABLE
    return False


class Issuer:
    """An issuer's key set over HTTP; counts how often it was asked."""

    def __init__(self) -> None:
        self.go_on = threading.Event()  # while it is not set, one byte comes now and then
        self.go_on.set()
        self.over = threading.Event()  # nobody waits for the answer any more
        self.begun = threading.Event()
        self.status = 200
        self.answer: bytes = b"{}"
        self.asked = 0
        self.url = ""


@contextmanager
def running() -> Iterator[Issuer]:
    """An issuer over HTTP, until the block ends."""
    state = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked += 1
            state.begun.set()
            self.send_response(state.status)
            if state.status == 302:
                self.send_header("Location", f"{state.url}elsewhere")
            if state.go_on.is_set():
                self.send_header("Content-Length", str(len(state.answer)))
            self.end_headers()
            with contextlib.suppress(OSError):  # it was not waited for
                while not state.go_on.wait(0.02) and not state.over.is_set():
                    self.wfile.write(b" ")
                self.wfile.write(state.answer)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}/"
        try:
            yield state
        finally:
            state.over.set()
            server.shutdown()
            thread.join()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running() as state:
        yield state


def _of(issuer: Issuer) -> PersonVerifier:
    return PersonVerifier((IssuerSettings(issuer=ISSUER, audience=AUDIENCE, jwks_url=issuer.url),))


@contextmanager
def _keys_live(seconds: float) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keys_module, "_KEYS_LIVE", seconds)
        yield


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetch again as soon as there is a reason to."""
    monkeypatch.setattr(keys_module, "_PAUSES", (-1.0, -1.0))


def test_keys_are_fetched_once_and_kept(issuer: Issuer, rsa: RSAPrivateKey) -> None:
    issuer.answer = json.dumps(jwks(one=rsa)).encode()
    verifier = _of(issuer)
    assert issuer.asked == 0
    for _ in range(3):
        assert verifier.verify(token_of(rsa)) == HOLDS
    assert issuer.asked == 1


@pytest.mark.usefixtures("no_pause")
def test_a_new_key_is_found_and_a_withdrawn_one_is_gone(
    issuer: Issuer, rsa: RSAPrivateKey, other_rsa: RSAPrivateKey
) -> None:
    issuer.answer = json.dumps(jwks(one=rsa)).encode()
    verifier = _of(issuer)
    assert verifier.verify(token_of(rsa)) == HOLDS
    assert verifier.verify(token_of(other_rsa, "two")) == INVALID
    issuer.answer = json.dumps(jwks(two=other_rsa)).encode()
    assert verifier.verify(token_of(other_rsa, "two")) == HOLDS
    assert verifier.verify(token_of(rsa)) == INVALID


@pytest.mark.usefixtures("no_pause")
def test_keys_are_fetched_again_when_they_are_old(issuer: Issuer, rsa: RSAPrivateKey, other_rsa: RSAPrivateKey) -> None:
    """So that a withdrawn key ends even when nobody brings a new one."""
    issuer.answer = json.dumps(jwks(one=rsa)).encode()
    verifier = _of(issuer)
    assert verifier.verify(token_of(rsa)) == HOLDS
    issuer.answer = json.dumps(jwks(one=other_rsa)).encode()
    assert verifier.verify(token_of(rsa)) == HOLDS
    with _keys_live(-1.0):
        until(lambda: verifier.verify(token_of(rsa)) == INVALID)  # it serves until the newer ones are there
        assert verifier.verify(token_of(other_rsa)) == HOLDS


def test_key_ids_that_strangers_invent_do_not_flood_the_issuer(issuer: Issuer, rsa: RSAPrivateKey) -> None:
    issuer.answer = json.dumps(jwks(one=rsa)).encode()
    verifier = _of(issuer)
    for number in range(50):
        assert verifier.verify(token_of(rsa, f"invented-{number}")) == INVALID
    assert issuer.asked == 1


def test_an_issuer_that_is_away_makes_keys_unavailable_and_not_the_token_invalid(rsa: RSAPrivateKey) -> None:
    away = IssuerSettings(issuer=ISSUER, audience=AUDIENCE, jwks_url="http://127.0.0.1:1/")
    verifier = PersonVerifier((away,))
    assert _unavailable(lambda: verifier.verify(token_of(rsa)))


def test_a_key_file_that_is_not_there_makes_keys_unavailable(tmp_path: Path, rsa: RSAPrivateKey) -> None:
    verifier = PersonVerifier((settings_of(tmp_path / "missing.json"),))
    assert _unavailable(lambda: verifier.verify(token_of(rsa)))


@pytest.mark.usefixtures("no_pause")
def test_keys_that_were_fetched_serve_on_while_the_issuer_is_away_and_new_ones_come_when_it_is_back(
    issuer: Issuer, rsa: RSAPrivateKey, other_rsa: RSAPrivateKey
) -> None:
    issuer.answer = json.dumps(jwks(one=rsa)).encode()
    verifier = _of(issuer)
    assert verifier.verify(token_of(rsa)) == HOLDS
    issuer.status = 503
    assert verifier.verify(token_of(other_rsa, "two")) == INVALID
    assert verifier.verify(token_of(rsa, sub="tax-clerk", jti="another")) == HOLDS
    issuer.status, issuer.answer = 200, json.dumps(jwks(one=rsa, two=other_rsa)).encode()
    assert verifier.verify(token_of(other_rsa, "two")) == HOLDS


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize("status", [302, 403, 404, 500, 503])
def test_an_issuer_that_answers_otherwise_gives_no_keys(issuer: Issuer, rsa: RSAPrivateKey, status: int) -> None:
    issuer.status, issuer.answer = status, json.dumps(jwks(one=rsa)).encode() if status != 302 else b""
    verifier = _of(issuer)
    assert _unavailable(lambda: verifier.verify(token_of(rsa)))
    issuer.status, issuer.answer = 200, json.dumps(jwks(one=rsa)).encode()
    assert verifier.verify(token_of(rsa)) == HOLDS


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"{}",
        b'{"keys": []}',
        b'{"keys": [{"kty": "x"}]}',
        b"[]",
        b"null",
        b'{"keys": 5}',
        b'{"keys": [5]}',
    ],
)
def test_an_answer_that_is_no_key_set_gives_no_keys(issuer: Issuer, rsa: RSAPrivateKey, answer: bytes) -> None:
    issuer.answer = answer
    verifier = _of(issuer)
    assert _unavailable(lambda: verifier.verify(token_of(rsa)))
    issuer.answer = json.dumps(jwks(one=rsa)).encode()
    assert verifier.verify(token_of(rsa)) == HOLDS


@pytest.mark.usefixtures("no_pause")
def test_the_issuer_is_asked_directly_whatever_proxies_the_surroundings_name(
    issuer: Issuer, rsa: RSAPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    issuer.answer = json.dumps(jwks(one=rsa)).encode()
    assert _of(issuer).verify(token_of(rsa)) == HOLDS


# An issuer that is slow


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline that no machine is too slow for."""
    for module in (keys_module, person_module):
        monkeypatch.setattr(module, "FETCH_SECONDS", 60.0)


@pytest.fixture
def slow(issuer: Issuer, rsa: RSAPrivateKey) -> Issuer:
    """An issuer that sends a byte now and then, until it is told to go on."""
    issuer.answer = json.dumps(jwks(one=rsa)).encode()
    issuer.go_on.clear()
    return issuer


@pytest.mark.usefixtures("patient")
def test_nobody_waits_for_another_issuers_keys(slow: Issuer, rsa: RSAPrivateKey, other_rsa: RSAPrivateKey) -> None:
    """Far more calls wait for the slow one than an event loop has threads."""
    with running() as quick:
        quick.answer = json.dumps(jwks(one=other_rsa)).encode()
        verifier = PersonVerifier(
            (
                IssuerSettings(issuer=ISSUER, audience=AUDIENCE, jwks_url=slow.url),
                IssuerSettings(issuer="https://b.example", audience=AUDIENCE, jwks_url=quick.url),
            )
        )

        async def scenario() -> list[PersonClaim]:
            waiting = [asyncio.create_task(verifier.claim(token_of(rsa, jti=str(n)))) for n in range(100)]
            await asyncio.to_thread(slow.begun.wait)
            assert await verifier.claim(token_of(other_rsa, iss="https://b.example")) == HOLDS
            assert not any(task.done() for task in waiting)
            slow.go_on.set()
            return list(await asyncio.gather(*waiting))

        assert asyncio.run(scenario()) == [HOLDS] * 100
    assert slow.asked == 1


@pytest.mark.usefixtures("no_pause", "patient")
def test_known_keys_serve_while_newer_ones_are_fetched(
    issuer: Issuer, rsa: RSAPrivateKey, other_rsa: RSAPrivateKey
) -> None:
    issuer.answer = json.dumps(jwks(one=rsa)).encode()
    verifier = _of(issuer)
    assert verifier.verify(token_of(rsa)) == HOLDS
    issuer.go_on.clear()
    issuer.answer = json.dumps(jwks(two=other_rsa)).encode()
    with _keys_live(-1.0):
        assert verifier.verify(token_of(rsa, jti="a")) == HOLDS
        until(lambda: issuer.asked == 2)
        assert verifier.verify(token_of(rsa, jti="b")) == HOLDS
        assert asyncio.run(verifier.claim(token_of(rsa, jti="c"))) == HOLDS
        assert issuer.asked == 2, "the fetch still runs"
    issuer.go_on.set()
    assert verifier.verify(token_of(other_rsa, "two")) == HOLDS
    assert issuer.asked == 2


@pytest.mark.parametrize("known", [False, True])
def test_an_issuer_that_drips_is_left_after_the_deadline_and_so_is_whoever_waits(
    slow: Issuer, rsa: RSAPrivateKey, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    verifier = _of(slow)
    if known:
        slow.go_on.set()
        assert verifier.verify(token_of(rsa)) == HOLDS
        slow.go_on.clear()
    monkeypatch.setattr(keys_module, "FETCH_SECONDS", 0.5)
    monkeypatch.setattr(person_module, "FETCH_SECONDS", 0.2)
    monkeypatch.setattr(keys_module, "_PAUSES", (-1.0, 3600.0))
    (_, keys) = verifier._issuers[ISSUER]
    keys._next_at = 0.0
    asked = slow.asked
    assert _unavailable(lambda: asyncio.run(verifier.claim(token_of(rsa, "two"))))
    assert slow.asked == asked + 1
    until(lambda: not keys.fetching)  # although it would drip on for as long as this test runs
    assert not slow.go_on.is_set()
    if known:
        assert verifier.verify(token_of(rsa, jti="again")) == HOLDS


def test_an_answer_without_end_gives_no_keys(
    issuer: Issuer, rsa: RSAPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "_LONGEST_ANSWER", 1000)
    issuer.answer = json.dumps({**jwks(one=rsa), "more": "x" * 1000}).encode()
    assert _unavailable(lambda: _of(issuer).verify(token_of(rsa)))


def test_a_flood_of_invented_key_ids_is_a_few_fetches_a_minute_and_a_new_key_is_found_soon(
    issuer: Issuer, rsa: RSAPrivateKey, other_rsa: RSAPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, moved = time.monotonic, 0.0
    monkeypatch.setattr(keys_module, "time", SimpleNamespace(monotonic=lambda: real() + moved))
    issuer.answer = json.dumps(jwks(one=rsa)).encode()
    verifier = _of(issuer)
    for second in range(600):
        for number in range(3):
            assert verifier.verify(token_of(rsa, f"invented-{second}-{number}")) == INVALID
        moved += 1.0
    assert issuer.asked <= 65
    issuer.answer = json.dumps(jwks(one=rsa, two=other_rsa)).encode()
    moved += 10.0
    assert verifier.verify(token_of(other_rsa, "two")) == HOLDS
