"""What this process holds open. A count of all descriptors would change whenever something old of another test is collected."""

import os
from pathlib import Path


def open_below(directory: Path) -> list[str]:
    """Name the files and directories, `directory` and whatever is in it, that a descriptor of this process stands for."""
    directory, found = directory.resolve(), []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:  # the listing's own, or one that was closed meanwhile
            continue
        if Path(target).is_relative_to(directory):
            found.append(target)
    return found
