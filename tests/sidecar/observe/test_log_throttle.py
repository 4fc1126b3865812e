"""When a thing is told again."""

from datafile_sidecar.observe.log_throttle import Seldom


def test_it_is_told_at_once_and_then_now_and_again() -> None:
    """A flood is a line now and then, and the numbers in the lines add up."""
    seldom = Seldom()
    assert [seldom.untold("x", now, 30) for now in (0, 1, 29, 30, 31, 70)] == [0, None, None, 2, None, 1]


def test_each_thing_counts_for_itself() -> None:
    """A flood of one thing hides no other; what is over is news when it comes back."""
    seldom = Seldom()
    assert (seldom.untold("x", 0, 30), seldom.untold("y", 1, 30)) == (0, 0)
    seldom.forget("x")
    seldom.forget("z")
    assert (seldom.untold("x", 2, 30), seldom.untold("y", 2, 30)) == (0, None)
