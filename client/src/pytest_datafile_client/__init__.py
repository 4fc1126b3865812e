"""A pytest plugin: the fixture `flags` sets feature flags for one test.

pytest loads this in every run, so it imports nothing but pytest. The SDK is imported with the first test that uses the fixture.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from datafile_client.testing import Flags

_NAME = "datafile_client_fixture"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a project with a fixture `flags` of its own give another name to this one."""
    parser.addini(
        _NAME, "name of the fixture that sets Optimizely's flags, a datafile_client.testing.Flags", default="flags"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Define the fixture, under the name that the project wants."""
    config.pluginmanager.register(_fixtures(config.getini(_NAME)), "datafile_client fixtures")


def _fixtures(name: str) -> object:
    class Fixtures:
        @pytest.fixture(name=name)
        def flags(self) -> "Iterator[Flags]":
            """Feature flags for this test, in memory: `set` sets one, and `watcher` decides by them."""
            from datafile_client.testing import Flags

            with Flags() as flags:
                yield flags

    return Fixtures()
