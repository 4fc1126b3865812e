"""Where a fetch may go and what it takes along: redirects, payload URLs, the token, validators."""

import asyncio

import pytest

from datafile_sidecar.core.conditional import Validators
from datafile_sidecar.upstream import Fetched, FetchError, NotModified, Upstream
from tests.sidecar.wire import CA_FILE, DATAFILE, KEY, Request, Script, head, ok, proxy, wire

TOKEN = "sesame-9"


def redirect(location: str, status: int = 302) -> bytes:
    """An answer that sends the client elsewhere."""
    return head(status, f"Location: {location}", "Content-Length: 0")


def by_path(**answers: bytes) -> Script:
    """Answer by the first path segment, 404 for others."""

    async def serve(request: Request, writer: asyncio.StreamWriter) -> None:
        name = request.line.split("/")[1]
        writer.write(answers.get(name, head(404, "Content-Length: 0")))
        await writer.drain()

    return serve


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_on_the_same_origin_is_followed(status: int) -> None:
    """The user behind a mirror that moves its files gets the datafile, and the next poll can be a 304."""
    script = by_path(datafiles=redirect(f"/moved/{KEY}.json", status), moved=ok(DATAFILE, 'ETag: "1"'))
    async with wire(script) as cdn, Upstream(template=cdn.template) as upstream:
        result = await upstream.fetch(upstream.url(KEY), sdk_key=KEY, token=TOKEN)
        assert isinstance(result, Fetched)
        assert result.body == DATAFILE
        assert result.validators == Validators(url=f"{cdn.origin}/moved/{KEY}.json", etag='"1"')
        assert [request.headers["authorization"] for request in cdn.requests] == [f"Bearer {TOKEN}"] * 2

        cdn.answer = by_path(datafiles=redirect(f"/moved/{KEY}.json"), moved=head(304))
        again = await upstream.fetch(upstream.url(KEY), sdk_key=KEY, validators=result.validators)
        assert again == NotModified()
        assert ["if-none-match" in request.headers for request in cdn.requests[2:]] == [False, True]


@pytest.mark.parametrize(
    "path", ["/evil.json", "/datafiles/KEY2.json", f"/datafiles/{KEY}.json?x=1", f"/a/%2e%2e/{KEY}.json"]
)
async def test_a_redirect_elsewhere_is_not_followed(path: str) -> None:
    """The user's token and flags are safe from a redirect: to another port it is not followed, nor to another key's file."""
    async with wire(ok()) as other, wire(b"") as cdn, Upstream(template=cdn.template) as upstream:
        for target in (
            f"{other.origin}{path}",
            f"{other.origin}/datafiles/{KEY}.json",
            f"//127.0.0.1:{other.port}{path}",
        ):
            cdn.answer = redirect(target)
            with pytest.raises(FetchError) as caught:
                await upstream.fetch(upstream.url(KEY), sdk_key=KEY, token=TOKEN)
            assert caught.value.outcome == "redirected"
            assert f"127.0.0.1:{other.port}" in caught.value.reason
        cdn.answer = redirect(path)
        with pytest.raises(FetchError, match="not followed"):
            await upstream.fetch(upstream.url(KEY), sdk_key=KEY, token=TOKEN)
        assert other.requests == []
        assert len(cdn.requests) == 4


async def test_redirects_are_counted() -> None:
    """The user's fetch gives up on a loop after three redirects."""
    async with wire(redirect(f"/datafiles/{KEY}.json")) as cdn, Upstream(template=cdn.template) as upstream:
        with pytest.raises(FetchError, match="more than 3 times"):
            await upstream.fetch(upstream.url(KEY), sdk_key=KEY)
        assert len(cdn.requests) == 4


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/",
        "http://127.0.0.1:9099/steal.json",
        f"http://127.0.0.1:9099/{KEY}.json",
        f"http://cdn.optimizely.com/datafiles/{KEY}.json",
        "https://cdn.optimizely.com/datafiles/KEY2.json",
        f"file:///{KEY}.json",
        "",
    ],
)
async def test_a_url_that_is_not_permitted_is_never_asked(url: str) -> None:
    """The user with a leaked webhook secret has no sidecar that fetches for strangers, even if a caller forgets to ask."""
    async with wire(ok()) as cdn, Upstream(template=cdn.template) as upstream:
        assert not upstream.permitted(url, KEY)
        with pytest.raises(FetchError) as caught:
            await upstream.fetch(url, sdk_key=KEY)
        assert caught.value.outcome == "refused"
        assert cdn.connections == 0


async def test_the_token_stays_at_home() -> None:
    """The user's access token is sent to the configured origin and to no other, not even to Optimizely's other hosts."""
    async with wire(ok(), tls=True) as hosts, proxy(hosts) as proxy_wire, wire(b"") as cdn:
        environ = {"HTTPS_PROXY": proxy_wire.origin, "SSL_CERT_FILE": str(CA_FILE)}
        async with Upstream(template=cdn.template, environ=environ) as upstream:
            for host in ("cdn.optimizely.com", "config.optimizely.com", "optimizely.s3.amazonaws.com"):
                url = f"https://{host}/datafiles/{KEY}.json"
                assert upstream.permitted(url, KEY)
                first = await upstream.fetch(url, sdk_key=KEY, token=TOKEN)
                cdn.answer = redirect(url)
                second = await upstream.fetch(upstream.url(KEY), sdk_key=KEY, token=TOKEN)
                assert isinstance(first, Fetched)
                assert isinstance(second, Fetched)
        assert [request.headers["host"] for request in hosts.requests][::2] == [
            "cdn.optimizely.com",
            "config.optimizely.com",
            "optimizely.s3.amazonaws.com",
        ]
        assert not any("authorization" in request.headers for request in hosts.requests + proxy_wire.requests)
        assert [request.headers["authorization"] for request in cdn.requests] == [f"Bearer {TOKEN}"] * 3


async def test_https_never_becomes_http() -> None:
    """The user's datafile never travels in the clear because of a redirect, not even to the configured origin."""
    async with wire(ok()) as cdn, wire(redirect(f"{cdn.origin}/datafiles/{KEY}.json"), tls=True) as hosts:
        async with proxy(hosts) as proxy_wire:
            environ = {"HTTPS_PROXY": proxy_wire.origin, "SSL_CERT_FILE": str(CA_FILE)}
            async with Upstream(template=cdn.template, environ=environ) as upstream:
                with pytest.raises(FetchError) as caught:
                    await upstream.fetch(f"https://cdn.optimizely.com/{KEY}.json", sdk_key=KEY)
        assert caught.value.outcome == "redirected"
        assert len(hosts.requests) == 1
        assert cdn.requests == []
