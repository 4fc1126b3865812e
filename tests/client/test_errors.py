"""The errors carry data, and survive the way between processes."""

import pickle
from pathlib import Path

import pytest

from datafile_client import DatafileClientError, DatafileUnavailableError, InvalidDatafileError, InvalidOptionError

ERRORS = [
    (DatafileUnavailableError("KEY1", Path("/d/KEY1.json"), "why"), {"sdk_key": "KEY1", "path": "/d/KEY1.json"}),
    (InvalidDatafileError(Path("/d/KEY1.json"), "why"), {"path": "/d/KEY1.json"}),
    (InvalidOptionError("stale_after_s", "why"), {"option": "stale_after_s"}),
]


@pytest.mark.parametrize(("error", "data"), ERRORS, ids=[type(error).__name__ for error, _ in ERRORS])
def test_an_error_keeps_its_data_in_another_process(error: DatafileClientError, data: dict[str, str]) -> None:
    """A user whose worker process raises an error of ours catches it in the parent, with the same text and attributes."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error) == data | {"reason": "why"}
    assert "why" in str(copy)
