"""An app that forks: a short form of `make forks`."""

from tests import forks


async def test_the_dead_are_not_counted_and_the_living_are() -> None:
    """300 children, forked while revisions fly: the sidecar knows each that lives and uses the watcher, and no dead parent."""
    await forks.run(300, seed=2)
