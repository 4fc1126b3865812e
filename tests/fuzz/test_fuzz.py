"""Every reader of strangers' bytes, with some hundred inputs that are the same in each run; `make fuzz` looks further."""

import pytest
from hypothesis import given, settings

from tests.fuzz.bytes_for import bytes_for
from tests.fuzz.found import FOUND
from tests.fuzz.targets import TARGETS

_SLOW = {"http": 60, "client": 80, "datafile": 150}


@pytest.mark.parametrize("name", TARGETS)
def test_no_bytes_break_it(name: str) -> None:
    """Whatever strangers send, it is understood or refused by the law of the one who reads it."""
    target = TARGETS[name]
    settings(max_examples=_SLOW.get(name, 300))(given(bytes_for(target))(target.check))()


@pytest.mark.parametrize(("name", "data"), FOUND, ids=[f"{name}-{number}" for number, (name, _) in enumerate(FOUND)])
def test_what_was_found(name: str, data: bytes) -> None:
    """What a campaign found once breaks nothing any more."""
    TARGETS[name].check(data)
