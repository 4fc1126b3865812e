"""What all our conversations with other pods share."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from datafile_sidecar.network.http import client_session, read_body
from datafile_sidecar.network.server import bind, serving

LIMIT = 1000


async def _echo_headers(request: web.Request) -> web.Response:
    response = web.json_response(dict(request.headers))
    response.set_cookie("a", "b")
    return response


async def _announced(request: web.Request) -> web.Response:
    return web.Response(body=b"x" * int(request.query["size"]))


async def _chunked(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(int(request.query["size"]) // 100):
        await response.write(b"x" * 100)
    await response.write(b"x" * (int(request.query["size"]) % 100))
    return response


async def _hang(_: web.Request) -> web.Response:
    await asyncio.sleep(20)
    return web.Response()


@pytest.fixture
async def url() -> AsyncIterator[str]:
    app = web.Application()
    for name, handler in (
        ("headers", _echo_headers),
        ("announced", _announced),
        ("chunked", _chunked),
        ("hang", _hang),
    ):
        app.router.add_get(f"/{name}", handler)
    listener = bind("127.0.0.1", 0, "")
    async with serving(app, listener):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_a_request_carries_nothing_extra(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of the environment is used, no cookie comes back, and the answer is not asked to be compressed."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with client_session(5) as session:
        await session.get(f"{url}/headers")
        async with session.get(f"{url}/headers") as response:
            headers = await response.json()
    assert "Cookie" not in headers
    assert headers["Accept-Encoding"] == "identity"


async def test_a_request_ends_in_time(url: str) -> None:
    """A pod that does not answer is given up."""
    async with client_session(0.1) as session:
        with pytest.raises(TimeoutError):
            await session.get(f"{url}/hang")


@pytest.mark.parametrize("kind", ["announced", "chunked"])
async def test_a_body_has_a_limit(url: str, kind: str) -> None:
    """A body of the limit is whole; one byte more is too much, whether its length was announced or not."""
    async with client_session(5) as session:
        for size, expected in ((0, b""), (LIMIT, b"x" * LIMIT), (LIMIT + 1, None)):
            async with session.get(f"{url}/{kind}?size={size}") as response:
                assert await read_body(response, LIMIT) == expected
