"""What a fetch brings when the other side behaves, and what each honest refusal is called."""

import asyncio
import random
import re
import time

import pytest

from datafile_sidecar.core.conditional import Validators
from datafile_sidecar.upstream import LARGE_BYTES, OUTCOMES, Fetched, FetchError, NotModified, Upstream
from tests.sidecar.wire import DATAFILE, KEY, Request, head, ok, wire

ETAG = 'W/"abc-43"'
DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


async def fetch(upstream: Upstream, validators: Validators | None = None, token: str | None = None) -> Fetched:
    """The body from the template's URL; anything else fails the test."""
    result = await upstream.fetch(upstream.url(KEY), sdk_key=KEY, validators=validators, token=token)
    assert isinstance(result, Fetched)
    return result


async def refusal(upstream: Upstream, **options: Validators | str | None) -> FetchError:
    """The error that a fetch of the template's URL ends with, of a known outcome."""
    with pytest.raises(FetchError) as caught:
        await upstream.fetch(upstream.url(KEY), sdk_key=KEY, **options)  # type: ignore[arg-type]
    assert caught.value.outcome in OUTCOMES
    return caught.value


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(ok(), id="plain"),
        pytest.param(ok(compress=True), id="gzip"),
        pytest.param(ok(DATAFILE, "Content-Encoding: identity"), id="identity"),
        pytest.param(ok(DATAFILE, "Content-Type: application/octet-stream"), id="odd-type"),
        pytest.param(
            head(200, "Transfer-Encoding: chunked") + b"%x\r\n%s\r\n0\r\n\r\n" % (len(DATAFILE), DATAFILE), id="chunked"
        ),
        pytest.param(head(200) + DATAFILE, id="until-close"),
    ],
)
async def test_the_body_arrives_as_it_was_served(answer: bytes) -> None:
    """The user gets the datafile's bytes, decompressed and otherwise untouched, however they were framed."""
    async with wire(answer) as cdn, Upstream(template=cdn.template) as upstream:
        assert (await fetch(upstream)).body == DATAFILE
        assert cdn.requests[0].line == f"GET /datafiles/{KEY}.json HTTP/1.1"
        assert cdn.requests[0].headers["accept-encoding"] == "gzip"


async def test_an_unchanged_datafile_is_not_sent_again() -> None:
    """The user pays for no body while nothing changes: the validators of the last answer make the request conditional."""
    async with (
        wire(ok(DATAFILE, f"ETag: {ETAG}", f"Last-Modified: {DATE}")) as cdn,
        Upstream(template=cdn.template) as upstream,
    ):
        validators = (await fetch(upstream)).validators
        assert validators == Validators(url=upstream.url(KEY), etag=ETAG, last_modified=DATE)
        cdn.answer = head(304)
        assert await upstream.fetch(upstream.url(KEY), sdk_key=KEY, validators=validators) == NotModified()
        first, second = cdn.requests
        assert "if-none-match" not in first.headers
        assert (second.headers["if-none-match"], second.headers["if-modified-since"]) == (ETAG, DATE)


async def test_validators_of_another_url_are_not_sent() -> None:
    """The user never gets a 304 that speaks of another file: origin and CDN may give equal tags to different bytes."""
    async with wire(ok()) as cdn, Upstream(template=cdn.template) as upstream:
        elsewhere = Validators(url=f"{cdn.origin}/json/{KEY}.json", etag=ETAG, last_modified=DATE)
        assert (await fetch(upstream, elsewhere)).validators is None
        assert not {"if-none-match", "if-modified-since"} & set(cdn.requests[0].headers)


@pytest.mark.parametrize("tag", ["\x00", "\N{LATIN SMALL LETTER E WITH ACUTE}", "\udce9", 'a"\r\nX: 1', "a" * 9000, ""])
async def test_a_validator_that_no_header_can_carry_is_left_out(tag: str) -> None:
    """The user's polls go on when upstream, or the bus, once handed out a tag that can't be sent back."""
    async with wire(ok()) as cdn, Upstream(template=cdn.template) as upstream:
        await fetch(upstream, Validators(url=upstream.url(KEY), etag=tag, last_modified=DATE))
        assert cdn.requests[0].headers["if-modified-since"] == DATE
        assert not {"if-none-match", "x"} & set(cdn.requests[0].headers)


async def test_an_odd_tag_is_not_remembered() -> None:
    """The user's other pods never see a tag with raw bytes in it."""
    answer = head(200, "Content-Length: 2", "ETag: \N{LATIN SMALL LETTER E WITH ACUTE}") + b"{}"
    async with wire(answer) as cdn, Upstream(template=cdn.template) as upstream:
        assert (await fetch(upstream)).validators is None


async def test_a_304_without_a_condition_is_an_error() -> None:
    """The user's empty pod says that a cache is broken, instead of taking "not modified" for a datafile."""
    async with wire(head(304)) as cdn, Upstream(template=cdn.template) as upstream:
        error = await refusal(upstream)
        assert error.outcome == "protocol_error"
        assert "304" in error.reason
        assert (
            await refusal(upstream, validators=Validators(url=upstream.url(KEY), etag="\x00"))
        ).outcome == error.outcome


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (101, "protocol_error"),
        (201, "protocol_error"),
        (204, "protocol_error"),
        (206, "protocol_error"),
        (300, "protocol_error"),
        (302, "protocol_error"),
        (400, "client_error"),
        (401, "client_error"),
        (403, "client_error"),
        (404, "client_error"),
        (407, "unreachable"),
        (429, "client_error"),
        (500, "server_error"),
        (503, "server_error"),
        (599, "server_error"),
        (999, "protocol_error"),
    ],
)
async def test_every_other_status_is_named(status: int, outcome: str) -> None:
    """The user reads which URL answered with which status."""
    async with wire(head(status, "Content-Length: 0")) as cdn, Upstream(template=cdn.template) as upstream:
        error = await refusal(upstream)
        assert (error.outcome, error.retry_after_s) == (outcome, None)
        assert upstream.url(KEY) in error.reason
        assert str(status) in error.reason


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        (["Retry-After: 120"], 120.0),
        (["Retry-After: 0"], 0.0),
        (["Retry-After: 99999999"], 600.0),
        (["Retry-After: Wed, 21 Oct 2099 07:28:00 GMT"], 600.0),
        (["Date: Wed, 21 Oct 2026 07:27:30 GMT", f"Retry-After: {DATE}"], 30.0),
        (["Date: Wed, 21 Oct 2026 07:29:00 GMT", f"Retry-After: {DATE}"], 0.0),
    ],
)
async def test_upstream_can_ask_to_be_left_alone(status: int, headers: list[str], wait_s: float) -> None:
    """The user's sidecars rest for as long as an overloaded CDN asks, within reason, whatever their clocks say."""
    async with wire(head(status, "Content-Length: 0", *headers)) as cdn, Upstream(template=cdn.template) as upstream:
        error = await refusal(upstream)
        assert (error.outcome, error.retry_after_s) == ("throttled", wait_s)


@pytest.mark.parametrize(
    "value", ["-5", "abc", "1e309", "", "nan", "inf", "1.5", "9" * 400, "Wed, 99 Oct 2099 99:99:99 GMT"]
)
async def test_a_senseless_retry_after_is_ignored(value: str) -> None:
    """The user's sidecar neither crashes nor sleeps for ever over a header."""
    answer = head(429, "Content-Length: 0", f"Retry-After: {value}")
    async with wire(answer) as cdn, Upstream(template=cdn.template) as upstream:
        error = await refusal(upstream)
        assert (error.outcome, error.retry_after_s) == ("client_error", None)


async def test_the_token_is_sent_as_a_bearer_and_never_spoken() -> None:
    """The user of a secure environment is let in, and finds the token in no error."""
    async with wire(ok()) as cdn, Upstream(template=cdn.template) as upstream:
        await fetch(upstream, token="sesame-9")
        assert cdn.requests[0].headers["authorization"] == "Bearer sesame-9"
        for answer in (head(403, "X: sesame-9"), b"sesame-9\r\n\r\n", head(200, "sesame-9")):
            cdn.answer = answer
            error = await refusal(upstream, token="sesame-9")
            assert "sesame-9" not in f"{error} {error!r} {error.reason} {error.__cause__!r}"


async def test_a_token_that_no_header_can_carry_is_an_error_in_words() -> None:
    """The user who mounted a broken token reads so, and the request is not made with half of it."""
    async with wire(ok()) as cdn, Upstream(template=cdn.template) as upstream:
        error = await refusal(upstream, token="sesame\r\nX-Evil: 1")
        assert error.outcome == "protocol_error"
        assert "sesame" not in f"{error} {error.__cause__!r}"
        assert cdn.requests == []


async def test_cookies_are_neither_kept_nor_sent() -> None:
    """The user's requests are all alike, so that a CDN can cache their answer."""
    async with (
        wire(ok(DATAFILE, "Set-Cookie: a=b")) as cdn,
        # Cookie jars take nothing from a bare address, so this server is asked by its name.
        Upstream(template=cdn.template.replace("127.0.0.1", "localhost")) as upstream,
    ):
        await fetch(upstream)
        await fetch(upstream)
        assert "cookie" not in cdn.requests[1].headers


async def test_connections_are_used_again_and_a_closed_one_does_no_harm() -> None:
    """The user's webhook costs no new handshake, and a connection that the CDN dropped meanwhile costs no failure."""
    async with wire(ok()) as cdn, Upstream(template=cdn.template) as upstream:
        await fetch(upstream)
        await fetch(upstream)
        assert cdn.connections == 1
        await cdn.stop()
        await fetch(upstream)
        assert cdn.connections == 2


async def test_bodies_stay_out_of_reprs() -> None:
    """The user's logs never fill with a datafile because somebody printed a result."""
    assert repr(Fetched(DATAFILE, None)) == "Fetched(validators=None)"


async def test_cancelling_a_fetch_passes_through() -> None:
    """The user's pod ends at once: a cancelled fetch is cancelled, not failed, and its connections are dropped."""
    async with wire(ok()) as cdn, Upstream(template=cdn.template) as upstream:

        async def silent(*_: object) -> None:
            await asyncio.sleep(60)

        cdn.answer = silent
        task = asyncio.create_task(fetch(upstream))
        while not cdn.requests:
            await asyncio.sleep(0.01)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "template", ["", "http://127.0.0.1/x.json", "file:///{sdk_key}", "https://u:p@host/{sdk_key}.json"]
)
def test_a_template_that_is_no_url_is_refused(template: str) -> None:
    """The user reads at the start, not at the first fetch, that the template can't work; a password in it is not shown."""
    with pytest.raises(ValueError, match=re.compile("the URL template")) as caught:
        Upstream(template=template)
    assert "p@host" not in str(caught.value)


async def test_the_template_is_asked_as_it_is_written() -> None:
    """The user whose mirror wants a signature in the URL gets it through unchanged, and does not find it in errors."""
    query = "sig=a%2Fb%20c+d%3D&x=%7Ey"
    async with wire(ok()) as cdn, Upstream(template=f"{cdn.template}?{query}") as upstream:
        await fetch(upstream)
        assert cdn.requests[0].line == f"GET /datafiles/{KEY}.json?{query} HTTP/1.1"
        cdn.answer = head(500, "Content-Length: 0")
        assert "sig" not in (await refusal(upstream)).reason


async def test_using_it_outside_its_context_is_a_plain_error() -> None:
    """The user of the class is told what is wrong with the call."""
    upstream = Upstream(template="http://127.0.0.1:1/{sdk_key}.json")
    with pytest.raises(RuntimeError, match="async with"):
        await fetch(upstream)


async def test_no_request_waits_for_a_connection_of_ours() -> None:
    """Callers decide how many fetch at the same time: a request that would wait here would seem to be upstream's delay."""
    all_came = asyncio.Barrier(40)

    async def answer(_: Request, writer: asyncio.StreamWriter) -> None:
        await all_came.wait()
        writer.write(ok())
        await writer.drain()

    async with wire(answer) as cdn, Upstream(template=cdn.template) as upstream:
        await asyncio.gather(*(fetch(upstream) for _ in range(40)))
        assert cdn.connections == 40


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(("size", "times"), [(LARGE_BYTES, 0), (LARGE_BYTES + 70_000, 1), (4 * LARGE_BYTES, 1)])
async def test_a_large_body_waits_until_there_is_memory_for_it(size: int, times: int, *, compress: bool) -> None:
    """The caller hears once that a body becomes large, and its wait is no delay of upstream: the timeout stands still."""
    body, waits = random.Random(1).randbytes(size), list[float]()

    async def on_large() -> None:
        waits.append(1.5)
        await asyncio.sleep(1.5)

    async with wire(ok(body, compress=compress)) as cdn, Upstream(template=cdn.template, timeout_s=1.0) as upstream:
        answer = await upstream.fetch(upstream.url(KEY), sdk_key=KEY, on_large=on_large)
    assert isinstance(answer, Fetched)
    assert answer.body == body
    assert len(waits) == times


async def test_the_timeout_runs_on_after_the_wait_for_memory() -> None:
    """A server that stops in the middle of a large body is given up in time, however long we made it wait."""
    body = bytes(4 * LARGE_BYTES)

    async def stop_halfway(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(body)[: 2 * LARGE_BYTES])
        await asyncio.sleep(30)

    async with wire(stop_halfway) as cdn, Upstream(template=cdn.template, timeout_s=0.3) as upstream:
        with pytest.raises(FetchError, match="no complete answer within"):
            await upstream.fetch(upstream.url(KEY), sdk_key=KEY, on_large=lambda: asyncio.sleep(0.5))
