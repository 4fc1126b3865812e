"""Everything that a CDN, a cache or the network can do wrong: each fault has its name, and the next good answer heals it."""

import asyncio
import gc
import gzip
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator
from typing import NoReturn

import pytest

from datafile_sidecar.core.datafile import MAX_BYTES
from datafile_sidecar.network.resolver import DaemonResolver, GetAddrInfo
from datafile_sidecar.upstream import OUTCOMES, Fetched, FetchError, Upstream
from tests.sidecar.wire import DATAFILE, KEY, Request, Script, Wire, body_after_retries, head, ok, reset, wire

GZIPPED = gzip.compress(DATAFILE, mtime=0)
ZEROS = bytes(1024 * 1024)


@pytest.fixture
async def cdn() -> AsyncIterator[Wire]:
    """A server that behaves until a test says otherwise."""
    async with wire(ok()) as served:
        yield served


async def fault_then_healed(cdn: Wire, answer: bytes | Script, timeout_s: float = 5.0) -> FetchError:
    """What a fetch fails with; then the same Upstream must succeed on the next good answer."""
    async with Upstream(template=cdn.template, timeout_s=timeout_s) as upstream:
        cdn.answer = answer
        with pytest.raises(FetchError) as caught:
            await upstream.fetch(upstream.url(KEY), sdk_key=KEY)
        cdn.answer = ok(compress=True)
        assert await body_after_retries(upstream) == DATAFILE
    assert caught.value.outcome in OUTCOMES
    assert upstream.url(KEY) in caught.value.reason
    return caught.value


def gzip_answer(body: bytes) -> bytes:
    """These bytes, called gzip, with the Content-Length that they really have."""
    return head(200, "Content-Encoding: gzip", f"Content-Length: {len(body)}") + body


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        pytest.param(gzip_answer(GZIPPED[: len(GZIPPED) // 2]), "truncated", id="half-a-gzip"),
        pytest.param(gzip_answer(GZIPPED[:10]), "truncated", id="gzip-header-alone"),
        pytest.param(gzip_answer(b""), "truncated", id="no-byte-of-gzip"),
        pytest.param(gzip_answer(GZIPPED[:-8]), "truncated", id="gzip-without-checksum"),
        pytest.param(gzip_answer(GZIPPED[:-1]), "truncated", id="gzip-less-one-byte"),
        pytest.param(gzip_answer(GZIPPED[:-8] + bytes(8)), "protocol_error", id="wrong-checksum"),
        pytest.param(gzip_answer(GZIPPED + b"!"), "protocol_error", id="garbage-after-gzip"),
        pytest.param(gzip_answer(GZIPPED + GZIPPED), "protocol_error", id="two-gzips"),
        pytest.param(gzip_answer(DATAFILE), "protocol_error", id="no-gzip-at-all"),
        pytest.param(gzip_answer(zlib.compress(DATAFILE)), "protocol_error", id="zlib-called-gzip"),
        pytest.param(ok(DATAFILE, "Content-Encoding: br"), "protocol_error", id="brotli"),
        pytest.param(ok(DATAFILE, "Content-Encoding: deflate"), "protocol_error", id="deflate"),
        pytest.param(ok(DATAFILE, "Content-Encoding: gzip, gzip"), "protocol_error", id="gzip-twice"),
        pytest.param(
            ok(GZIPPED, "Content-Encoding: gzip", "Content-Encoding: br"), "protocol_error", id="two-coding-headers"
        ),
        pytest.param(ok()[:-1], "truncated", id="less-than-content-length"),
        pytest.param(ok()[: -len(DATAFILE)], "truncated", id="none-of-content-length"),
        pytest.param(
            head(200, "Transfer-Encoding: chunked") + b"5\r\n12345\r\n", "truncated", id="chunks-without-an-end"
        ),
        pytest.param(
            head(200, "Transfer-Encoding: chunked") + b"zz\r\n12345\r\n", "protocol_error", id="no-chunk-size"
        ),
        pytest.param(head(200, "Content-Encoding: gzip") + GZIPPED[:-4], "truncated", id="gzip-until-close-cut"),
        pytest.param(b"", "unreachable", id="closed-without-a-word"),
        pytest.param(b"HTTP/1.1 200", "unreachable", id="closed-in-the-status-line"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "protocol_error", id="another-protocol"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01", "protocol_error", id="tls-alert"),
        pytest.param(head(200, "X: " + "y" * 9000), "protocol_error", id="header-of-9000-bytes"),
        pytest.param(head(200, *[f"X-{n}: y" for n in range(200)]), "protocol_error", id="200-headers"),
        pytest.param(head(200, "no colon here"), "protocol_error", id="header-without-colon"),
        pytest.param(head(200, "Content-Length: -5"), "protocol_error", id="negative-length"),
        pytest.param(head(200, "Content-Length: abc"), "protocol_error", id="length-in-words"),
        pytest.param(head(200, "Content-Length: " + "9" * 5000), "protocol_error", id="length-of-5000-digits"),
        pytest.param(head(200, "Content-Length: 2", "Content-Length: 3") + b"{}", "protocol_error", id="two-lengths"),
        pytest.param(
            head(200, "Content-Length: 2", "Transfer-Encoding: chunked") + b"{}",
            "protocol_error",
            id="length-and-chunks",
        ),
        pytest.param(head(200, f"Content-Length: {MAX_BYTES + 1}"), "too_large", id="one-byte-over-the-cap"),
        pytest.param(head(200, "Content-Length: 99999999999"), "too_large", id="93-gib-announced"),
        pytest.param(head(302, "Location: file:///etc/passwd"), "redirected", id="redirect-to-a-file"),
        pytest.param(head(302, "Location: http://[::1"), "redirected", id="redirect-to-no-url"),
        pytest.param(head(302, "Location: \udcff\udcfe"[:10]), "protocol_error", id="redirect-without-a-location"),
        pytest.param(
            head(302, f"Location: /datafiles/{KEY}.json", "Content-Length: 0"), "redirected", id="redirect-loop"
        ),
    ],
)
async def test_a_broken_answer_has_a_name_and_the_next_good_one_heals(cdn: Wire, answer: bytes, outcome: str) -> None:
    """The user keeps the last good datafile, reads what was wrong, and needs no restart."""
    assert (await fault_then_healed(cdn, answer)).outcome == outcome


async def test_a_reset_connection_is_no_end_of_body(cdn: Wire) -> None:
    """The user never gets the valid-looking beginning of a body whose connection was reset."""

    async def cut(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head(200) + b"{}")
        await writer.drain()
        await asyncio.sleep(0.05)
        reset(writer)

    assert (await fault_then_healed(cdn, cut)).outcome == "truncated"


async def test_a_reset_after_the_whole_body_does_no_harm(cdn: Wire) -> None:
    """The user gets a datafile that came whole, even when the server then drops the connection rudely."""

    async def rude(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(ok())
        await writer.drain()
        reset(writer)

    cdn.answer = rude
    async with Upstream(template=cdn.template) as upstream:
        for _ in range(20):
            assert isinstance(await upstream.fetch(upstream.url(KEY), sdk_key=KEY), Fetched)


async def test_a_connection_that_is_reset_while_idle_is_not_logged(cdn: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """The user's log holds no traceback because a CDN dropped an unused connection."""
    async with Upstream(template=cdn.template) as upstream:
        await upstream.fetch(upstream.url(KEY), sdk_key=KEY)
        await cdn.reset()
        await upstream.fetch(upstream.url(KEY), sdk_key=KEY)
    gc.collect()
    assert cdn.connections == 2
    assert caplog.records == []


async def test_a_body_of_exactly_the_cap_is_taken(cdn: Wire) -> None:
    """The user with the largest datafile that is allowed gets it, plain and gzipped; one byte more is refused."""
    for size, compress in [(MAX_BYTES, False), (MAX_BYTES, True), (MAX_BYTES + 1, True)]:
        cdn.answer = ok(b" " * size, compress=compress)
        async with Upstream(template=cdn.template) as upstream:
            if size <= MAX_BYTES:
                result = await upstream.fetch(upstream.url(KEY), sdk_key=KEY)
                assert isinstance(result, Fetched)
                assert len(result.body) == size
            else:
                with pytest.raises(FetchError, match="8 MiB"):
                    await upstream.fetch(upstream.url(KEY), sdk_key=KEY)


async def endless_zeros(_: Request, writer: asyncio.StreamWriter) -> None:
    """A body without length or end."""
    writer.write(head(200))
    while True:
        writer.write(ZEROS)
        await writer.drain()


async def endless_bomb(_: Request, writer: asyncio.StreamWriter) -> None:
    """A gzip stream that grows a thousandfold and never ends."""
    writer.write(head(200, "Content-Encoding: gzip"))
    stream = zlib.compressobj(wbits=31)
    while True:
        writer.write(stream.compress(ZEROS))
        await writer.drain()
        await asyncio.sleep(0)


async def endless_nothing(_: Request, writer: asyncio.StreamWriter) -> None:
    """A gzip stream that sends for ever and decompresses to nothing: empty stored blocks."""
    writer.write(head(200, "Content-Encoding: gzip") + GZIPPED[:10])
    while True:
        writer.write(b"\x00\x00\x00\xff\xff" * 100_000)
        await writer.drain()


@pytest.mark.parametrize("script", [endless_zeros, endless_bomb, endless_nothing])
async def test_a_body_without_end_is_cut_at_the_cap(cdn: Wire, script: Script) -> None:
    """The user's pod is not killed for its memory by a body that never ends, however it is packed."""
    assert (await fault_then_healed(cdn, script)).outcome == "too_large"


def dripping(first: bytes, drop: bytes, pause_s: float = 0.02) -> Script:
    """A script that sends `first` and then `drop`, again and again, for ever."""

    async def drip(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return drip


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(dripping(head(200, f"Content-Length: {2 * 1024 * 1024}"), b"x"), id="body"),
        pytest.param(dripping(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.05), id="headers"),
        pytest.param(dripping(b"", b"H", 60), id="nothing-after-the-first-byte"),
        pytest.param(dripping(b"", head(100), 0.0), id="100-continue"),
        pytest.param(dripping(head(302, f"Location: /datafiles/{KEY}.json")[:-2], b"", 60), id="redirect-that-stalls"),
    ],
)
async def test_the_time_out_is_for_the_whole_fetch(cdn: Wire, script: Script) -> None:
    """The user's next try comes in time, however slowly the bytes drip."""
    started = time.monotonic()
    error = await fault_then_healed(cdn, script, timeout_s=0.5)
    assert error.outcome == "timeout"
    assert "0.5 s" in error.reason
    assert time.monotonic() - started < 3


async def test_slow_redirects_share_one_time_out(cdn: Wire) -> None:
    """The user's fetch ends in time even when each redirect takes a while."""

    async def slow(_: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.write(head(302, f"Location: /datafiles/{KEY}.json", "Content-Length: 0"))

    assert (await fault_then_healed(cdn, slow, timeout_s=0.5)).outcome == "timeout"


def test_no_time_out_is_longer_than_30_s() -> None:
    """The user who sets an hour still gets a loop that moves."""
    assert Upstream(template="http://h/{sdk_key}.json", timeout_s=3600)._timeout_s == 30


def closed_port() -> int:
    """A port of 127.0.0.1 where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_nothing_listens() -> None:
    """The user reads that nothing answers at this address."""
    async with Upstream(template=f"http://127.0.0.1:{closed_port()}/{{sdk_key}}.json") as upstream:
        with pytest.raises(FetchError, match="can't connect") as caught:
            await upstream.fetch(upstream.url(KEY), sdk_key=KEY)
    assert caught.value.outcome == "unreachable"


@pytest.mark.parametrize(
    "host", ["2130706433", "127.1", "300.300.300.300", "-", "a" * 64, "x" * 300, "a..b", "xn--", "under_score"]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_an_invalid_host_is_a_fetch_error(scheme: str, host: str, no_names: GetAddrInfo) -> None:
    """The user with a mistyped host reads so; no odd exception ends the loop."""
    async with Upstream(template=f"{scheme}://{host}/{{sdk_key}}.json", resolver=DaemonResolver(no_names)) as upstream:
        with pytest.raises(FetchError) as caught:
            await upstream.fetch(upstream.url(KEY), sdk_key=KEY)
    assert caught.value.outcome in {"unreachable", "protocol_error"}


@pytest.fixture
def no_names() -> GetAddrInfo:
    """A resolver that knows no names, so that no test uses the network."""

    def getaddrinfo(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    return getaddrinfo


PEAK_OF_A_FETCH = """
import asyncio, sys, tracemalloc
from datafile_sidecar.upstream import FetchError, Upstream

def resident():
    status = open("/proc/self/status").read()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024

async def main(template):
    async with Upstream(template=template) as upstream:
        for path in ("warm", "warm", *sys.argv[2:]):
            if path != "warm" and not tracemalloc.is_tracing():
                before = resident()
                tracemalloc.start()
            try:
                await upstream.fetch(template.replace("{sdk_key}", path), sdk_key=path)
            except FetchError as error:
                print(error.outcome)
    print(tracemalloc.get_traced_memory()[1], resident() - before)

asyncio.run(main(sys.argv[1]))
"""


async def test_memory_stays_near_the_cap_whatever_is_sent() -> None:
    """The user's pod with a small memory limit survives a 40 MB body, a bomb, and the largest good datafile."""
    scripts = {"endless": endless_zeros, "bomb": endless_bomb, "nothing": endless_nothing}
    answers = {
        "big40mb": head(200, "Transfer-Encoding: chunked") + b"2625a00\r\n" + bytes(40_000_000) + b"\r\n0\r\n\r\n",
        "largest": ok(b" " * MAX_BYTES),
        "packed": ok(b" " * MAX_BYTES, compress=True),
    }

    async def serve(request: Request, writer: asyncio.StreamWriter) -> None:
        name = request.line.split("/")[-2].split(".")[0]
        if name in scripts:
            await scripts[name](request, writer)
        writer.write(answers.get(name, ok()))
        await writer.drain()

    async with wire(serve) as cdn:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PEAK_OF_A_FETCH, cdn.template, *scripts, *answers), stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
    *outcomes, figures = output.decode().splitlines()
    allocated, resident = map(int, figures.split())
    assert outcomes == ["too_large"] * 4
    assert allocated < 2 * MAX_BYTES
    assert resident < 3 * MAX_BYTES
