"""`status` while processes and sidecars are killed, stopped and forked: a short form of `make presence`."""

from tests import presence


async def test_no_yes_is_false() -> None:
    """On call reads a yes only when every process that lives uses the revision, and reads it when nothing is wrong any more."""
    done = await presence.run(20, seed=3)
    assert done.counts["no"]
    assert done.counts["yes"]
