"""Fixtures for the tests of the simulator and its commands."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from tests.sidecar.cli.webhook_receiver import Receiver


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    application = web.Application()
    application.router.add_post("/webhooks/optimizely", receiver.take)
    async with TestServer(application) as server:
        receiver.url = str(server.make_url("/webhooks/optimizely"))
        yield receiver


@pytest.fixture
async def browser() -> AsyncIterator[ClientSession]:
    async with ClientSession(auto_decompress=False) as session:
        yield session
