"""Wait until the watcher thread has looked at the datafile so many times, instead of for some time."""

import pytest

from datafile_client._datafile_reader import DatafileReader, FileContent
from tests.client.helpers import wait_until


def record_reads(monkeypatch: pytest.MonkeyPatch) -> list[FileContent | None]:
    """Return a list that grows with each look at a datafile: by its content, or by None for one that is unchanged or bad."""
    reads: list[FileContent | None] = []
    read_if_changed = DatafileReader.read_if_changed

    def record(reader: DatafileReader) -> FileContent | None:
        content = None
        try:
            content = read_if_changed(reader)
        finally:
            reads.append(content)
        return content

    monkeypatch.setattr(DatafileReader, "read_if_changed", record)
    return reads


def wait_for_reads(reads: list[FileContent | None], count: int) -> None:
    """Wait until the watcher thread has dealt with this many more looks at the datafile."""
    seen = len(reads)
    wait_until(lambda: len(reads) > seen + count)
