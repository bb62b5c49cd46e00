"""A flood of refusals becomes counts, and none is lost on the way into the record."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from vault_service.audit.refusals import RefusalKey, RefusalMeter

KEY = RefusalKey("sis", "Tokenize", "NOT_PERMITTED")
OTHER = RefusalKey("sis", "Tokenize", "FROZEN")
MINUTE = 60_000


def test_the_first_ones_of_a_minute_are_recorded_by_themselves_and_the_rest_counted() -> None:
    meter = RefusalMeter(3)
    assert [meter.admit(KEY, 5) for _ in range(5)] == [True, True, True, False, False]
    assert meter.take() == Counter({KEY: 2})


def test_each_client_method_and_reason_is_counted_apart() -> None:
    meter = RefusalMeter(1)
    keys = [KEY, OTHER, KEY._replace(client="registrar"), KEY._replace(method="Detokenize")]
    assert all(meter.admit(key, 5) for key in keys)
    assert not any(meter.admit(key, 5) for key in keys)
    assert meter.take() == Counter(keys)


def test_a_new_minute_begins_anew() -> None:
    meter = RefusalMeter(1)
    assert [meter.admit(KEY, at) for at in (0, MINUTE - 1, MINUTE, 2 * MINUTE - 1, 2 * MINUTE)] == [
        True,
        False,
        True,
        False,
        True,
    ]
    assert meter.take() == Counter({KEY: 2})


def test_counts_of_an_earlier_minute_wait_until_they_are_taken() -> None:
    meter = RefusalMeter(1)
    for minute in range(3):
        for _ in range(4):
            meter.admit(KEY, minute * MINUTE)
    assert meter.take() == Counter({KEY: 9})


def test_what_is_withheld_is_counted_and_uses_up_nothing() -> None:
    meter = RefusalMeter(1)
    meter.withhold(KEY)
    meter.withhold(KEY)
    assert meter.admit(KEY, 5)
    assert meter.take() == Counter({KEY: 2})


def test_counts_are_taken_once() -> None:
    meter = RefusalMeter(1)
    meter.withhold(KEY)
    assert meter.take() == Counter({KEY: 1})
    assert meter.take() == Counter()


def test_counts_that_were_not_committed_come_back_beside_newer_ones() -> None:
    meter = RefusalMeter(1)
    meter.withhold(KEY)
    taken = meter.take()
    meter.withhold(KEY)
    meter.withhold(OTHER)
    meter.give_back(taken)
    assert meter.take() == Counter({KEY: 2, OTHER: 1})


def test_no_refusal_is_lost_when_many_threads_refuse_and_one_takes() -> None:
    meter = RefusalMeter(10)

    def refuse(_: int) -> int:
        return sum(meter.admit(KEY, 5) for _ in range(500))

    taken: Counter[RefusalKey] = Counter()
    with ThreadPoolExecutor(8) as threads:
        work = [threads.submit(refuse, number) for number in range(16)]
        while not all(one.done() for one in work):
            taken += meter.take()
    taken += meter.take()
    assert sum(one.result() for one in work) == 10
    assert taken[KEY] == 16 * 500 - 10
