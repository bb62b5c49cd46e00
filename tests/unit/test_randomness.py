"""Random bytes are handed out once, in the length asked for, whichever thread asks."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from vault_service.randomness import random_bytes


@pytest.mark.parametrize("count", [0, 1, 12, 16, 16_383, 16_384, 16_385, 100_000])
def test_as_many_bytes_come_as_were_asked_for(count: int) -> None:
    assert len(random_bytes(count)) == count


def test_every_byte_of_the_operating_systems_generator_is_handed_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[bytes] = []
    real = os.urandom

    def urandom(count: int) -> bytes:
        fetched.append(real(count))
        return fetched[-1]

    with ThreadPoolExecutor(1) as fresh:  # a thread that holds no bytes yet
        monkeypatch.setattr(os, "urandom", urandom)
        drawn = fresh.submit(lambda: b"".join(random_bytes(1) for _ in range(40_000))).result()
    assert drawn == b"".join(fetched)[:40_000]
    assert len(fetched) > 1


def test_no_bytes_are_handed_out_twice_whatever_lengths_are_asked_for() -> None:
    drawn = [random_bytes(12 + number % 7) for number in range(20_000)]
    assert len({piece[:12] for piece in drawn} | {piece[-11:] for piece in drawn}) == 40_000


def test_threads_do_not_share_bytes() -> None:
    def draw(_: int) -> list[bytes]:
        return [random_bytes(12) for _ in range(5_000)]

    with ThreadPoolExecutor(8) as threads:
        drawn = [piece for pieces in threads.map(draw, range(8)) for piece in pieces]
    assert len(set(drawn)) == len(drawn) == 40_000
