"""Connections to upstream: proxies, certificates, names and addresses, as clusters have them."""

import asyncio
import base64
import contextlib
import gc
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from datafile_sidecar.network.resolver import DaemonResolver
from datafile_sidecar.upstream import Fetched, FetchError, Upstream
from tests.sidecar.wire import CA_FILE, DATAFILE, KEY, Wire, body_after_retries, head, ok, proxy, wire

NAME = "cdn.test"
TRUST = {"SSL_CERT_FILE": str(CA_FILE)}


async def body(upstream: Upstream) -> bytes:
    """The body from the template's URL."""
    result = await upstream.fetch(upstream.url(KEY), sdk_key=KEY)
    assert isinstance(result, Fetched)
    return result.body


async def refusal(upstream: Upstream) -> FetchError:
    """The error that a fetch of the template's URL ends with."""
    with pytest.raises(FetchError) as caught:
        await upstream.fetch(upstream.url(KEY), sdk_key=KEY)
    return caught.value


def names(*addresses: str) -> DaemonResolver:
    """A name service in which every name has these addresses, in this order."""

    def getaddrinfo(*_: object, **__: object) -> list[tuple[Any, ...]]:
        infos: list[tuple[Any, ...]] = []
        for address in addresses:
            six = ":" in address
            where = (address, 0, 0, 0) if six else (address, 0)
            infos.append((socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM, 6, "", where))
        return infos

    return DaemonResolver(getaddrinfo)


@pytest.fixture
async def hosts() -> AsyncIterator[Wire]:
    """A TLS server that has the certificate of Optimizely's hosts, of cdn.test and of 127.0.0.1."""
    async with wire(ok(), tls=True) as served:
        yield served


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
async def test_https_goes_through_the_proxy(hosts: Wire, variable: str) -> None:
    """The user in a cluster without direct egress gets the datafile through a tunnel, by the usual variables."""
    async with proxy(hosts) as proxy_wire:
        environ = TRUST | {variable: proxy_wire.origin}
        async with Upstream(template=f"https://{NAME}/{{sdk_key}}.json", environ=environ) as upstream:
            assert await body(upstream) == DATAFILE
        assert proxy_wire.requests[0].line == f"CONNECT {NAME}:443 HTTP/1.1"


async def test_no_proxy_connects_directly(hosts: Wire) -> None:
    """The user whose mirror lies inside the cluster reaches it without the proxy."""
    async with proxy(hosts) as proxy_wire:
        for bypass in ("127.0.0.1,cdn.test", ".test 127.0.0.0/8", "*"):
            environ = TRUST | {"HTTPS_PROXY": proxy_wire.origin, "NO_PROXY": bypass}
            template = f"https://{NAME}:{hosts.port}/{{sdk_key}}.json"
            async with Upstream(template=template, environ=environ, resolver=names("127.0.0.1")) as upstream:
                assert await body(upstream) == DATAFILE
            async with Upstream(template=hosts.template, environ=environ) as upstream:
                assert await body(upstream) == DATAFILE
        assert proxy_wire.connections == 0


async def test_http_goes_through_its_own_proxy() -> None:
    """The user of a plain mirror behind a plain proxy gets the datafile, and HTTPS_PROXY alone does not touch http."""
    async with wire(ok()) as proxy_wire, wire(ok(b"{}")) as cdn:
        async with Upstream(template=cdn.template, environ={"HTTP_PROXY": proxy_wire.origin}) as upstream:
            assert await body(upstream) == DATAFILE
            assert proxy_wire.requests[0].line == f"GET {upstream.url(KEY)} HTTP/1.1"
        async with Upstream(template=cdn.template, environ={"HTTPS_PROXY": proxy_wire.origin}) as upstream:
            assert await body(upstream) == b"{}"


async def test_only_the_proxy_gets_its_password(hosts: Wire) -> None:
    """The user's proxy password, odd characters and all, reaches the proxy, and neither upstream nor any error."""
    async with proxy(hosts) as proxy_wire:
        there = f"http://ann:p%40ss%C3%A9@127.0.0.1:{proxy_wire.port}"
        async with Upstream(
            template=f"https://{NAME}/{{sdk_key}}.json", environ=TRUST | {"HTTPS_PROXY": there}
        ) as upstream:
            await body(upstream)
        scheme, _, value = proxy_wire.requests[0].headers["proxy-authorization"].partition(" ")
        assert (scheme, base64.b64decode(value).decode()) == ("Basic", "ann:p@ss\N{LATIN SMALL LETTER E WITH ACUTE}")
        assert "proxy-authorization" not in hosts.requests[0].headers
    async with wire(ok()) as proxy_wire:
        there = f"http://ann:hunter2@127.0.0.1:{proxy_wire.port}"
        async with Upstream(template=f"http://{NAME}/{{sdk_key}}.json", environ={"HTTP_PROXY": there}) as upstream:
            await body(upstream)
        assert (
            proxy_wire.requests[0].headers["proxy-authorization"]
            == f"Basic {base64.b64encode(b'ann:hunter2').decode()}"
        )


@pytest.mark.parametrize(
    ("scheme", "answer", "outcome"),
    [
        ("http", head(407), "unreachable"),
        ("http", head(502), "server_error"),
        ("http", b"", "unreachable"),
        ("http", b"garbage\r\n\r\n", "protocol_error"),
        ("https", head(407), "unreachable"),
        ("https", head(403), "unreachable"),
        ("https", head(502), "unreachable"),
        ("https", b"", "unreachable"),
        ("https", b"garbage\r\n\r\n", "protocol_error"),
        ("https", head(200) + b"no tls at all", "unreachable"),
    ],
)
async def test_a_proxy_that_refuses_is_named_without_its_password(scheme: str, answer: bytes, outcome: str) -> None:
    """The user reads that it is the proxy, which one, and what it said; the password is nowhere."""
    async with wire(answer) as proxy_wire:
        environ = {f"{scheme}_proxy": f"http://ann:hunter2@127.0.0.1:{proxy_wire.port}"}
        async with Upstream(template=f"{scheme}://{NAME}/{{sdk_key}}.json", environ=environ, timeout_s=3) as upstream:
            error = await refusal(upstream)
    assert error.outcome == outcome
    assert f"through the proxy http://127.0.0.1:{proxy_wire.port}" in error.reason
    secret = base64.b64encode(b"ann:hunter2").decode()
    for text in ("hunter2", secret):
        assert text not in f"{error} {error!r} {error.__cause__!r} {upstream!r} {upstream._proxies!r}"


@pytest.mark.parametrize("inner", ["http", "https"])
async def test_a_proxy_may_speak_tls_itself(hosts: Wire, inner: str) -> None:
    """The user whose proxy wants TLS gets the datafile through it, and its certificate is checked like any other."""
    async with proxy(hosts, tls=True) as tunnel, wire(ok(), tls=True) as plain:
        proxy_wire = tunnel if inner == "https" else plain
        for trust, outcome in ((TRUST, None), ({}, "tls")):
            environ = trust | {f"{inner}_proxy": proxy_wire.origin}
            async with Upstream(template=f"{inner}://{NAME}/{{sdk_key}}.json", environ=environ) as upstream:
                if outcome is None:
                    assert await body(upstream) == DATAFILE
                else:
                    assert (await refusal(upstream)).outcome == outcome
        assert len(proxy_wire.requests) == 1


async def test_a_dead_proxy_is_named() -> None:
    """The user reads which proxy does not answer."""
    with closed_port() as port:
        environ = {"HTTPS_PROXY": f"http://ann:hunter2@127.0.0.1:{port}"}
        async with Upstream(template=f"https://{NAME}/{{sdk_key}}.json", environ=environ) as upstream:
            error = await refusal(upstream)
    assert error.outcome == "unreachable"
    assert f"through the proxy http://127.0.0.1:{port}: can't connect" in error.reason
    assert "hunter2" not in f"{error} {error.__cause__!r}"


@pytest.mark.parametrize("setting", ["socks5://ann:hunter2@h:1080", "http://ann:hunter2@h:port", "http://"])
async def test_a_proxy_that_we_cannot_use_is_an_error_in_words(setting: str) -> None:
    """The user with a SOCKS proxy or a mistyped one is told so; nothing is sent past the proxy."""
    async with Upstream(template=f"https://{NAME}/{{sdk_key}}.json", environ={"HTTPS_PROXY": setting}) as upstream:
        error = await refusal(upstream)
    assert error.outcome == "unreachable"
    assert "HTTPS_PROXY" in error.reason
    assert "hunter2" not in f"{error} {error.__cause__!r}"


async def test_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's home directory holds passwords that the CDN must not see."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("default login ann password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with wire(ok()) as cdn, Upstream(template=cdn.template, environ={"NETRC": str(netrc)}) as upstream:
        await body(upstream)
        assert "authorization" not in cdn.requests[0].headers


async def test_a_certificate_of_our_own_ca_is_trusted_only_when_named(hosts: Wire) -> None:
    """The user behind a private CA names it in SSL_CERT_FILE; without it the error says just that, and nothing is sent."""
    async with Upstream(template=hosts.template, environ=TRUST) as upstream:
        assert await body(upstream) == DATAFILE
    async with Upstream(template=hosts.template) as upstream:
        error = await refusal(upstream)
    assert error.outcome == "tls"
    assert "SSL_CERT_FILE" in error.reason
    assert "certificate" in error.reason
    assert len(hosts.requests) == 1


async def test_the_name_in_the_certificate_is_checked(hosts: Wire) -> None:
    """The user's datafile comes from the host that was meant, not from any host with some certificate."""
    template = f"https://other.test:{hosts.port}/{{sdk_key}}.json"
    async with Upstream(template=template, environ=TRUST, resolver=names("127.0.0.1")) as upstream:
        error = await refusal(upstream)
    assert error.outcome == "tls"
    assert "other.test" in error.reason
    assert hosts.requests == []


async def test_a_bundle_that_cannot_be_used_is_named_and_mending_it_heals(hosts: Wire, tmp_path: Path) -> None:
    """The user whose CA file is missing or garbage reads its path, and mends it without a restart."""
    bundle = tmp_path / "ca.pem"
    async with Upstream(template=hosts.template, environ={"SSL_CERT_FILE": str(bundle)}) as upstream:
        error = await refusal(upstream)
        assert error.outcome == "tls"
        assert f"SSL_CERT_FILE={bundle} can't be used: No such file" in error.reason
        for garbage in (b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\n!\n", bytes(range(256))):
            bundle.write_bytes(garbage)
            assert "holds no PEM certificates" in (await refusal(upstream)).reason
        bundle.write_bytes(CA_FILE.read_bytes())
        assert await body(upstream) == DATAFILE


async def test_a_ca_that_is_exchanged_is_read_again(hosts: Wire, tmp_path: Path) -> None:
    """The user who adds the new CA after the first failure needs no restart either."""
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes((CA_FILE.parent / "other-ca.pem").read_bytes())
    async with Upstream(template=hosts.template, environ={"SSL_CERT_FILE": str(bundle)}) as upstream:
        assert (await refusal(upstream)).outcome == "tls"
        bundle.write_bytes(CA_FILE.read_bytes())
        assert await body(upstream) == DATAFILE


async def test_a_bundle_on_a_mount_that_hangs_stops_nothing_else(hosts: Wire, tmp_path: Path) -> None:
    """The user's probes and webhooks are answered while the CA file can't be read, and fetches go on when it can."""
    bundle = tmp_path / "ca.pem"
    os.mkfifo(bundle)  # opening it hangs until somebody writes
    async with Upstream(template=hosts.template, environ={"SSL_CERT_FILE": str(bundle)}, timeout_s=0.2) as upstream:
        threads = threading.active_count()
        for _ in range(5):
            assert (await refusal(upstream)).outcome == "timeout"
        assert threading.active_count() <= threads + 1
        # The mount answers: the read that hung gets its bytes, and from now on there is a file.
        with open(await asyncio.to_thread(os.open, bundle, os.O_WRONLY), "wb") as hung:
            (tmp_path / "healed.pem").write_bytes(CA_FILE.read_bytes())
            (tmp_path / "healed.pem").replace(bundle)
            hung.write(CA_FILE.read_bytes())
        assert await body_after_retries(upstream) == DATAFILE


async def test_plain_http_where_tls_was_meant() -> None:
    """The user who wrote https for a plain port reads that there is no TLS."""

    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    template = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/{{sdk_key}}.json"
    async with server, Upstream(template=template, timeout_s=2) as upstream:
        error = await refusal(upstream)
    assert error.outcome == "tls"
    assert "does it speak TLS" in error.reason


async def test_a_name_that_does_not_resolve() -> None:
    """The user reads which name is unknown."""

    def unknown(*_: object, **__: object) -> list[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    template = f"https://{NAME}/{{sdk_key}}.json"
    async with Upstream(template=template, resolver=DaemonResolver(unknown)) as upstream:
        error = await refusal(upstream)
    assert error.outcome == "unreachable"
    assert f"the name {NAME} does not resolve (Name or service not known)" in error.reason


async def test_a_name_service_that_hangs_blocks_nothing_and_heals() -> None:
    """The user's fetches end in time while DNS hangs, with a handful of threads in all, and go on once it answers."""
    release = threading.Event()
    calls: list[str] = []

    def slow(host: str, *_: object, **__: object) -> list[tuple[Any, ...]]:
        calls.append(host)
        release.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    async with wire(ok()) as cdn:
        template = f"http://{NAME}:{cdn.port}/{{sdk_key}}.json"
        async with Upstream(template=template, timeout_s=0.2, resolver=DaemonResolver(slow)) as upstream:
            started = time.monotonic()
            for _ in range(6):
                assert (await refusal(upstream)).outcome == "timeout"
            assert time.monotonic() - started < 4
            assert len(calls) == 4
            release.set()
            assert await body_after_retries(upstream) == DATAFILE


async def test_a_lookup_that_fails_too_late_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The user's log holds no traceback of a lookup that nothing waits for any more."""
    release = threading.Event()

    def failing(*_: object, **__: object) -> list[tuple[Any, ...]]:
        release.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    resolver = DaemonResolver(failing)
    async with Upstream(template=f"http://{NAME}/{{sdk_key}}.json", timeout_s=0.1, resolver=resolver) as upstream:
        assert (await refusal(upstream)).outcome == "timeout"
        release.set()
        for _ in range(50):
            if (await refusal(upstream)).outcome == "unreachable":
                break
    gc.collect()
    assert caplog.records == []


def test_a_hanging_lookup_does_not_delay_the_exit() -> None:
    """The user's pod ends at once, though a thread still waits for the name service."""
    program = """
import asyncio, socket, time
socket.getaddrinfo = lambda *_, **__: time.sleep(60)
from datafile_sidecar.upstream import FetchError, Upstream
async def main():
    async with Upstream(template="http://cdn.test/{sdk_key}.json", timeout_s=0.1) as upstream:
        try:
            await upstream.fetch(upstream.url("K"), sdk_key="K")
        except FetchError as error:
            print(error.outcome)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert (done.stdout, done.stderr) == ("timeout\n", "")


async def test_a_dead_ipv6_address_costs_a_moment_only() -> None:
    """The user whose nodes have IPv6 in name only gets the datafile by IPv4 within a second."""
    with black_hole("::1" if has_ipv6() else "127.0.0.2") as (dead, port):
        async with wire(ok(), port=port) as cdn:
            template = f"http://{NAME}:{cdn.port}/{{sdk_key}}.json"
            async with Upstream(template=template, resolver=names(dead, "127.0.0.1")) as upstream:
                started = time.monotonic()
                assert await body(upstream) == DATAFILE
                assert time.monotonic() - started < 2


@pytest.mark.skipif(
    "not has_ipv6()", reason="this machine has no IPv6 on its loopback interface; enable it to run this"
)
async def test_ipv6_alone_is_enough() -> None:
    """The user of an IPv6-only cluster gets the datafile, by a name and by an address in the template."""
    async with wire(ok(), host="::1") as cdn:
        async with Upstream(template=cdn.template) as upstream:
            assert await body(upstream) == DATAFILE
        template = f"http://{NAME}:{cdn.port}/{{sdk_key}}.json"
        async with Upstream(template=template, resolver=names("::1")) as upstream:
            assert await body(upstream) == DATAFILE


async def test_the_real_name_service_is_asked() -> None:
    """The user's own hosts file and search domains count: names are resolved by the operating system."""
    result = await DaemonResolver().resolve("localhost", 80)
    assert result
    assert {entry["host"] for entry in result} <= {"127.0.0.1", "::1"}
    assert {(entry["port"], entry["hostname"]) for entry in result} == {(80, "localhost")}


def has_ipv6() -> bool:
    """Whether ::1 can be bound."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 that is taken, but where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextlib.contextmanager
def black_hole(address: str) -> Iterator[tuple[str, int]]:
    """An address and port that let a connection wait for ever: a listener whose queue is full."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family))
        listener.bind((address, 0))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        for _ in range(4):
            filler = stack.enter_context(socket.socket(family))
            filler.setblocking(False)
            filler.connect_ex((address, port))
        time.sleep(0.05)
        probe = stack.enter_context(socket.socket(family))
        probe.settimeout(0.3)
        with pytest.raises(TimeoutError):
            probe.connect((address, port))
        yield address, port
