"""When an event is logged again."""

from datafile_sidecar.observe.log_throttle import LogThrottle


def test_an_event_is_logged_at_once_and_then_at_intervals() -> None:
    """A flood makes few lines, and the numbers in them add up."""
    throttle = LogThrottle()
    assert [throttle.admit("x", now, 30) for now in (0, 1, 29, 30, 31, 70)] == [0, None, None, 2, None, 1]


def test_each_event_counts_for_itself() -> None:
    """A flood of one event hides no other; one that is over is logged at once when it comes back."""
    throttle = LogThrottle()
    assert (throttle.admit("x", 0, 30), throttle.admit("y", 1, 30)) == (0, 0)
    throttle.reset("x")
    throttle.reset("z")
    assert (throttle.admit("x", 2, 30), throttle.admit("y", 2, 30)) == (0, None)
