"""How long to wait. Every pause is seconds; `jitter` is a random number in [0, 1) that the caller draws."""

import hashlib

CHASE_FOR_S = 600.0
"""For how long an announced revision is chased before it is called overdue."""
HINT_FOR_S = 60.0
"""For how long a webhook that may mean this key makes the sidecar look."""
MAX_PAUSE_S = 30.0


def chase_pause(elapsed_s: float, jitter: float) -> float:
    """Between two fetches while an announced revision is not served yet, `elapsed_s` after its webhook.

    A twelfth of the time that has passed: with two sources taking turns, each is asked again within a sixth of it, and the
    jitter only shortens, so that this bound holds. At most 39 fetches fall into the first 6 seconds.
    """
    return min(MAX_PAUSE_S, max(0.1, elapsed_s / 12) * (0.86 + 0.09 * jitter))


def hint_pause(elapsed_s: float, jitter: float) -> float:
    """Return the pause between two fetches after a hint: as long as has passed already, so that they become rare."""
    return min(MAX_PAUSE_S, max(0.5, elapsed_s) * (0.9 + 0.2 * jitter))


def failure_pause(failures: int, jitter: float) -> float:
    """Before a source is asked again that failed `failures` times in a row."""
    return min(MAX_PAUSE_S, 0.25 * 2.0 ** min(failures - 1, 10)) * (0.8 + 0.2 * jitter)


def refusal_pause(poll_interval_s: float, retry_after_s: float | None) -> float:
    """Before a source is asked again that refused us: what it asked for (a second at least), else a minute or the poll interval."""
    return max(60.0, poll_interval_s) if retry_after_s is None else max(1.0, retry_after_s)


def reconnect_pause(failures: int, jitter: float) -> float:
    """Before the bus is tried again, after so many failures in a row: soon, for it is what makes a fleet fast, and spread out.

    The first time, a fleet of 10,000 that has lost its broker comes back spread over most of a second.
    """
    return min(8.0, max(1.0, 0.25 * 2.0 ** min(failures - 1, 10))) * (0.1 + 0.9 * jitter)


def seed_pause(listeners: int, jitter: float) -> float:
    """Before a datafile is written to a broker that has none, by one of so many sidecars: the first one spares all others."""
    return min(5.0, listeners / 500) * jitter


def place(pod: str, sdk_key: str) -> float:
    """A pod's place within a poll interval, 0 to 1: always the same, and spread evenly over a fleet."""
    return int.from_bytes(hashlib.sha256(f"{pod}/{sdk_key}".encode()).digest()[:8]) / 2**64


def next_poll(now: float, interval_s: float, offset: float, jitter: float) -> float:
    """When to poll next, on the clock of `now`.

    Polls of one pod stand at the same `offset` (a fraction of the interval) of each interval, so that a fleet that started
    at once is spread over the whole of it; the jitter adds up to a tenth.
    """
    start = offset * interval_s
    periods = (now - start) // interval_s + 1
    at = start + periods * interval_s
    if at - now < interval_s / 4:
        at += interval_s
    return at + 0.1 * interval_s * jitter
