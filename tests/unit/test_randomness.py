"""Random bytes are handed out once, in the length asked for, whichever thread asks."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from vault_service.randomness import random_bytes


@pytest.mark.parametrize("count", [0, 1, 12, 16, 16_383, 16_384, 16_385, 100_000])
def test_as_many_bytes_come_as_were_asked_for(count: int) -> None:
    assert len(random_bytes(count)) == count


def test_no_bytes_are_handed_out_twice() -> None:
    """Over many refills, and with lengths that do not divide them."""
    drawn = b"".join(random_bytes(12 + number % 7) for number in range(10_000))
    pieces = [drawn[at : at + 12] for at in range(len(drawn) - 12)]
    assert len(set(pieces)) == len(pieces)


def test_threads_do_not_share_bytes() -> None:
    def draw(_: int) -> list[bytes]:
        return [random_bytes(12) for _ in range(5_000)]

    with ThreadPoolExecutor(8) as threads:
        drawn = [piece for pieces in threads.map(draw, range(8)) for piece in pieces]
    assert len(set(drawn)) == len(drawn) == 40_000
