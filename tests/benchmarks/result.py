"""One line of the result."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the result; rates are items a second, latencies milliseconds."""

    database: str
    what: str
    rate: float
    floor: str
    floor_rate: float
    ratio: float
    p50_ms: float
    p99_ms: float
