"""The relay: one webhook at one pod reaches every other pod, whichever of them are dead, hang or don't resolve."""

import asyncio
import contextlib
import ipaddress
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web

from datafile_sidecar.cli.simulator import Simulator
from datafile_sidecar.config import settings
from datafile_sidecar.core import webhook
from datafile_sidecar.core.webhook import DatafileUpdated, signature
from datafile_sidecar.network.resolver import DaemonResolver
from datafile_sidecar.observe.metrics import OUTCOMES
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.webhooks.peer_addresses import Address
from datafile_sidecar.webhooks.peers import MAX_POSTS, Peers
from tests.datafiles import minimal
from tests.running import RunningSidecar

SECRET = b"test-secret-1"
BODY = b'{ "event":"project.datafile_updated" ,\n "project_id":1234,"note":"\xe2\x80\xa8\xc3\xa9","data":{"revision":43}}\r\n'
SIGNATURE = signature(BODY, SECRET).encode()
NOWHERE = ("127.0.0.1", 1)


@dataclass
class Peer:
    """Another pod's webhook port: records what is posted there."""

    host: str
    port: int = 0
    status: int = 202
    got: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=lambda: {"Location": "/elsewhere"})
    may_answer: asyncio.Event | None = None

    @property
    def address(self) -> Address:
        return self.host, self.port

    async def take(self, request: web.Request) -> web.Response:
        self.got.append((await request.read(), {name.lower(): value for name, value in request.headers.items()}))
        if self.may_answer:
            await self.may_answer.wait()
        return web.Response(status=self.status, headers=self.headers)


@contextlib.asynccontextmanager
async def listening(*peers: Peer) -> AsyncIterator[None]:
    """Serve the peers, all at one port, on addresses of their own."""
    async with contextlib.AsyncExitStack() as stack:
        port = 0
        for peer in peers:
            app = web.Application()
            app.router.add_route("*", "/{any:.*}", peer.take)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, peer.host, peer.port or port)
            await site.start()
            port = peer.port = runner.addresses[0][1]
        yield


@contextlib.contextmanager
def silent(*hosts: str) -> Any:
    """Addresses, at one port, that take connections and never answer: the port."""
    with contextlib.ExitStack() as stack:
        port = 0
        for host in hosts:
            listener = stack.enter_context(socket.create_server((host, port)))
            port = listener.getsockname()[1]
        yield port


class Relay:
    """The peers under test, and what their telemetry shows."""

    def __init__(
        self,
        *names: Address,
        listens_on: Address = NOWHERE,
        dns: dict[str, list[str]] | None = None,
        max_posts: int = MAX_POSTS,
    ) -> None:
        self.events: list[dict[str, Any]] = []
        self.telemetry = Telemetry(structlog.wrap_logger(None, processors=[self._take]), time.monotonic)
        self._dns = dns or {}
        self.losing = 0
        self.peers = Peers(names, listens_on, self.telemetry, DaemonResolver(self._getaddrinfo), max_posts)

    def relay(self, body: bytes, signed: bytes = SIGNATURE) -> None:
        """Hand a webhook to the peers, as the webhook port does."""
        event = webhook.parse(body)
        assert isinstance(event, DatafileUpdated)
        self.peers.relay(body, signed, event)

    def counts(self) -> dict[str, int]:
        counts = {}
        for line in self.telemetry.exposition().decode().splitlines():
            if line.startswith("datafile_sidecar_relays_total{"):
                name, _, value = line.rpartition(" ")
                counts[name.split('"')[1]] = int(float(value))
        return counts

    async def __aenter__(self) -> "Relay":
        self._task = asyncio.create_task(self.peers.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _getaddrinfo(self, host: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        if host == "hangs" or self._is_lost():
            time.sleep(4)
        if host not in self._dns:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(_family(one), socket.SOCK_STREAM, 6, "", (one, 0, 0, 0)) for one in self._dns[host]]

    def _is_lost(self) -> bool:
        self.losing -= 1
        return self.losing >= 0

    def _take(self, _: object, __: str, event: Any) -> Any:
        self.events.append(dict(event))
        raise structlog.DropEvent


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(8):
        while not condition():
            await asyncio.sleep(0.005)


# What is relayed, and where


async def test_every_address_of_a_name_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pod behind the headless Service gets the very bytes that Optimizely signed, marked, whatever proxy is set."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    some = [Peer("127.0.0.2"), Peer("127.0.0.3"), Peer("127.0.0.4")]
    async with listening(*some):
        dns = {"peers": [peer.host for peer in some]}
        async with Relay(("peers", some[0].port), ("127.0.0.4", some[0].port), dns=dns) as relay:
            relay.relay(BODY, b" " + SIGNATURE)
            await relay.peers.settle()
    for peer in some:
        ((body, headers),) = peer.got
        assert (body, headers["x-hub-signature"]) == (BODY, SIGNATURE.decode())
        assert headers["x-datafile-relayed"] == "1"
        assert headers["host"] == f"{peer.host}:{peer.port}"
    assert relay.counts() == {"delivered": 3}
    status = relay.peers.status()
    assert (status["state"], status["outcomes"], status["failing"]) == ("on", {"delivered": 3}, [])
    assert status["relayed"].endswith("Z")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6: enable it to see this tested")
async def test_ipv6() -> None:
    """Pods with IPv6 addresses get it too, by a name and by an address."""
    peer = Peer("::1")
    async with listening(peer), Relay(("peers", peer.port), dns={"peers": ["::1"]}) as relay:
        relay.relay(BODY)
        await until(lambda: len(peer.got) == 1)


async def test_names_are_resolved_anew() -> None:
    """A pod that started after the last webhook gets the next one."""
    first, second = Peer("127.0.0.2"), Peer("127.0.0.3")
    dns = {"peers": ["127.0.0.2"]}
    async with listening(first, second), Relay(("peers", first.port), dns=dns) as relay:
        relay.relay(BODY)
        await until(lambda: len(first.got) == 1)
        dns["peers"] = ["127.0.0.3"]
        relay.relay(BODY + b" ")
        await until(lambda: len(second.got) == 1)
    assert len(first.got) == 1


async def test_the_same_body_is_relayed_once() -> None:
    """A webhook that is delivered twice costs the fleet one round, and so does one that comes to two pods."""
    peer = Peer("127.0.0.2")
    async with listening(peer), Relay(peer.address) as relay:
        for _ in range(5):
            relay.relay(BODY)
        relay.relay(BODY + b" ")
        await relay.peers.settle()
    assert [body for body, _ in peer.got] == [BODY, BODY + b" "]


async def test_the_same_body_is_relayed_again_where_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A webhook that comes again reaches the peers that missed it, once in a while, and costs those that have it nothing."""
    monkeypatch.setattr("datafile_sidecar.webhooks.relay.DEDUPLICATE_S", 0.05)
    well, ill = Peer("127.0.0.2"), Peer("127.0.0.3", status=503)
    dns = {"well": [well.host]}
    async with listening(well, ill):
        names = (("well", well.port), ill.address, ("late", well.port))
        async with Relay(*names, dns=dns) as relay:

            async def again() -> tuple[int, int]:
                await asyncio.sleep(0.06)
                relay.relay(BODY)
                relay.relay(BODY)
                await relay.peers.settle()
                return len(well.got), len(ill.got)

            assert await again() == (1, 1)
            assert relay.peers.is_delivered(BODY)
            assert await again() == (1, 2)
            dns["late"] = [well.host]
            assert await again() == (2, 3)
            ill.status = 200
            assert await again() == (2, 4)
            assert await again() == (2, 4)
    outcomes = {"delivered": 3, "rejected": 3, "unresolved": 2}
    assert relay.counts() == outcomes


async def test_answers_of_every_version() -> None:
    """Sidecars of this and of earlier versions take a webhook with 200, 202 or 204: each is delivered."""
    some = [Peer(f"127.0.0.{status - 190}", status=status) for status in (200, 202, 204)]
    async with listening(*some):
        relay = Relay(*(peer.address for peer in some))
        async with relay:
            relay.relay(BODY)
            await relay.peers.settle()
    assert relay.counts() == {"delivered": 3}


async def test_where_a_body_is() -> None:
    """Of each body it can be said whether a peer has it: yes, no, or that there is no peer."""
    peer, other = Peer("127.0.0.2"), Peer("127.0.0.3", status=401)
    async with listening(peer, other):
        async with Relay() as nobody, Relay(peer.address, listens_on=peer.address) as alone:
            for relay in (nobody, alone):
                assert relay.peers.is_delivered(BODY) is None
                relay.relay(BODY)
                await relay.peers.settle_body(BODY)
                assert relay.peers.is_delivered(BODY) is None
        with silent("127.0.0.4") as port:
            async with Relay(peer.address, other.address, ("127.0.0.4", port)) as relay:
                relay.relay(BODY)
                assert relay.peers.is_delivered(BODY) is False
                await until(lambda: relay.peers.is_delivered(BODY) is True)
        async with Relay(other.address) as relay:
            relay.relay(BODY)
            await relay.peers.settle_body(BODY)
            assert relay.peers.is_delivered(BODY) is False


@pytest.mark.parametrize("own", ["127.0.0.2", "0.0.0.0", "::"])
async def test_a_sidecar_does_not_post_to_itself(own: str) -> None:
    """The Service's addresses include the sidecar's own, which gets nothing; others at the same port do."""
    peer, itself = Peer("127.0.0.3"), Peer("127.0.0.2" if own == "127.0.0.2" else "127.0.0.1")
    async with listening(peer, itself):
        dns = {"peers": [itself.host, peer.host]}
        async with Relay(("peers", peer.port), listens_on=(own, peer.port), dns=dns) as relay:
            relay.relay(BODY)
            await relay.peers.settle()
    assert (len(peer.got), len(itself.got)) == (1, 0)
    assert relay.counts() == {"delivered": 1}


async def test_off() -> None:
    """Without peers nothing is relayed and nothing is kept."""
    async with Relay() as relay:
        relay.relay(BODY)
        await relay.peers.settle()
        assert relay.peers.status() == {"state": "off"}
        assert relay.events == []


def test_how_peers_are_named() -> None:
    """Names, addresses and IPv6 are accepted, duplicates are merged, and what is not a peer is refused with an error."""

    def load(peers: str) -> tuple[Address, ...]:
        return settings.load({"DATAFILE_SDK_KEYS": "KEY1", "DATAFILE_PEERS": peers}).peers

    assert load("peers:8089, 10.0.0.4:1,[2001:db8::1]:8089,peers:8089") == (
        ("peers", 8089),
        ("10.0.0.4", 1),
        ("2001:db8::1", 8089),
    )
    for wrong in ("peers", ":8089", "peers:0", "peers:x", "http://peers:8089", "a:1,,b:1", "a/b:1", "::1:8089"):
        with pytest.raises(settings.SettingsError, match=r"DATAFILE_PEERS.*write HOST:PORT"):
            load(wrong)


# Peers that do not answer


async def test_dead_pods_do_not_delay_the_others() -> None:
    """Pods that hang, refuse, redirect or don't resolve cost the others nothing, and each is counted and shown as what it is."""
    alive, moved = Peer("127.0.0.2"), Peer("127.0.0.3", status=307)
    async with listening(alive, moved):
        with silent("127.0.0.4") as port:
            names = (
                ("127.0.0.4", port),
                ("127.0.0.5", 1),
                ("gone", 9),
                ("bad..name", 9),
                ("hangs", 9),
                moved.address,
                alive.address,
            )
            async with Relay(*names) as relay:
                started = time.monotonic()
                relay.relay(BODY)
                await until(lambda: bool(alive.got))
                assert time.monotonic() - started < 1
                await relay.peers.settle()
                assert time.monotonic() - started < 5
    assert len(moved.got) == 1
    expected = {"delivered": 1, "rejected": 1, "timeout": 1, "unreachable": 1, "unresolved": 3}
    assert relay.counts() == expected
    assert set(expected) < set(OUTCOMES["relays"])
    assert "127.0.0.5:1: unreachable" in relay.peers.status()["failing"]
    (event,) = relay.events
    assert (event["event"], event["outcomes"]) == ("webhook.relayed", expected)


async def test_a_hundred_hanging_pods_delay_one_webhook_only() -> None:
    """When a rack of nodes hangs, the first webhook may take its time to those alive, but the next one does not."""
    hanging = [f"127.0.1.{number}" for number in range(1, 101)]
    with silent(*hanging) as port:
        alive = Peer("127.0.0.2", port)
        async with listening(alive), Relay(("peers", port), dns={"peers": [*hanging, alive.host]}) as relay:
            relay.relay(BODY)
            await until(lambda: len(alive.got) == 1)
            started = time.monotonic()
            relay.relay(BODY + b" ")
            await until(lambda: len(alive.got) == 2)
            assert time.monotonic() - started < 1


async def test_a_burst_beside_a_hanging_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred flips in a moment each reaches the pods that are alive, though one hangs, and what it holds is let go."""
    for name in ("_POST_S", "_RELAY_S"):
        monkeypatch.setattr(f"datafile_sidecar.webhooks.peers.{name}", 30.0)
    alive = Peer("127.0.0.2")
    bodies = [BODY + b" " * number for number in range(100)]
    async with listening(alive):
        with silent("127.0.0.4") as port:
            async with Relay(alive.address, ("127.0.0.4", port)) as relay:
                for body in bodies:
                    relay.relay(body)
                    await until(lambda body=body: any(got == body for got, _ in alive.got))  # type: ignore[misc]
                assert len(os.listdir("/proc/self/fd")) < 400
    assert relay.counts()["delivered"] == 100


async def test_a_quarter_that_hangs_does_not_delay_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many pods that are not known yet, those that are alive get a webhook before any that hangs is given up."""
    for name in ("_POST_S", "_RELAY_S"):
        monkeypatch.setattr(f"datafile_sidecar.webhooks.peers.{name}", 60.0)
    hanging = [f"127.0.1.{number}" for number in range(1, 101)]
    hosts = [f"127.0.2.{number}" for number in range(1, 41)]
    with silent(*hanging) as port:
        alive = [Peer(host, port) for host in hosts]
        async with listening(*alive), Relay(("peers", port), dns={"peers": [*hanging, *hosts]}) as relay:
            relay.relay(BODY)
            await until(lambda: all(peer.got for peer in alive))


async def test_a_pod_that_failed_and_is_back_is_reached() -> None:
    """Those that failed come last, but each time another one of them first, so that none is left out for ever."""
    hanging = [f"127.0.1.{number}" for number in range(1, 21)]
    with silent(*hanging) as port:
        async with Relay(("peers", port), dns={"peers": [*hanging, "127.0.0.2"]}, max_posts=30) as relay:
            relay.relay(BODY)
            await relay.peers.settle()
            assert relay.counts() == {"timeout": 20, "unreachable": 1}
            back = Peer("127.0.0.2", port)
            async with listening(back):
                relay.relay(BODY + b" ")
                await until(lambda: len(back.got) == 1)


# Names that do not resolve in time


async def test_a_lost_datagram_of_the_name_server_costs_nothing() -> None:
    """A resolver notices a lost answer only after seconds: the second look-up finds the peers long before."""
    peer = Peer("127.0.0.2")
    async with listening(peer), Relay(("peers", peer.port), dns={"peers": [peer.host]}) as relay:
        relay.losing = 2  # the one at the start, and the webhook's first
        relay.relay(BODY)
        await relay.peers.settle()
        assert len(peer.got) == 1
        assert relay.counts() == {"delivered": 1}


@pytest.mark.parametrize("losing", [0, 1000])
async def test_without_a_name_server_the_last_known_addresses_are_used(losing: int) -> None:
    """Whether it fails at once or hangs, the pods that were there at the last look-up get the webhook; it is shown all the same."""
    peer, dns = Peer("127.0.0.2"), {"peers": ["127.0.0.2"]}
    async with listening(peer), Relay(("peers", peer.port), dns=dns) as relay:
        relay.relay(BODY)
        await relay.peers.settle()
        relay.losing = losing
        dns.clear()
        relay.relay(BODY + b" ")
        await until(lambda: len(peer.got) == 2)
        await relay.peers.settle()
        assert relay.counts() == {"delivered": 2, "unresolved": 1}


async def test_many_addresses_are_a_case_for_the_bus() -> None:
    """From 500 addresses of a name on, the log says once that the bus is the way."""
    dns = {"peers": [f"127.1.{number // 250}.{number % 250 + 1}" for number in range(499)]}
    async with Relay(("peers", 1), listens_on=("0.0.0.0", 1), dns=dns) as relay:
        relay.relay(BODY)
        await relay.peers.settle()
        assert [event["event"] for event in relay.events] == ["webhook.relayed"]
        dns["peers"].append("127.2.0.1")
        for more in (b" ", b"  "):
            relay.relay(BODY + more)
            await relay.peers.settle()
    (many,) = (event for event in relay.events if event["event"] == "peers.many")
    assert (many["name"], many["addresses"]) == ("peers", 500)
    assert "DATAFILE_BUS_URL" in many["reason"]


# What is relayed first, and again


def revision(number: int, environment: str = "Production") -> bytes:
    data = {"revision": number, "environment": environment}
    return json.dumps({"event": "project.datafile_updated", "project_id": 1234, "data": data}).encode()


async def test_replays_do_not_crowd_out_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many old webhooks are replayed before and after it, the newest is the next that goes out."""
    monkeypatch.setattr("datafile_sidecar.webhooks.peers._MAX_RELAYS", 4)
    for name in ("_POST_S", "_RELAY_S"):
        monkeypatch.setattr(f"datafile_sidecar.webhooks.peers.{name}", 60.0)
    peer = Peer("127.0.0.2", may_answer=asyncio.Event())
    async with listening(peer), Relay(peer.address, max_posts=1) as relay:
        relay.relay(revision(20))
        await until(lambda: len(peer.got) == 1)
        for number in range(10):
            relay.relay(revision(number))
        relay.relay(revision(44))
        for number in range(10, 20):
            relay.relay(revision(number))
        await until(lambda: relay.counts().get("dropped", 0) == 18)
        assert peer.may_answer
        peer.may_answer.set()
        await relay.peers.settle()
    assert [body for body, _ in peer.got] == [revision(number) for number in (20, 44, 19, 18)]


async def test_revisions_of_another_environment_are_no_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest of an environment with low revisions is not crowded out by old ones of an environment with high ones."""
    monkeypatch.setattr("datafile_sidecar.webhooks.peers._MAX_RELAYS", 3)
    peer = Peer("127.0.0.2", may_answer=asyncio.Event())
    async with listening(peer), Relay(peer.address, max_posts=1) as relay:
        relay.relay(revision(9000, "Staging"))
        await until(lambda: len(peer.got) == 1)
        for number in range(8990, 9000):
            relay.relay(revision(number, "Staging"))
        relay.relay(revision(7))
        await until(lambda: relay.counts().get("dropped", 0) == 9)
        assert peer.may_answer
        peer.may_answer.set()
        await relay.peers.settle()
    assert [body for body, _ in peer.got][:2] == [revision(9000, "Staging"), revision(7)]


async def test_the_same_body_goes_again_to_those_that_did_not_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A webhook that is sent again within seconds reaches a pod that it did not reach before, and no other twice."""
    monkeypatch.setattr("datafile_sidecar.webhooks.relay._RETRY_AFTER_S", 0.0)
    first = Peer("127.0.0.2")
    async with listening(first):
        second = Peer("127.0.0.3", first.port)
        async with Relay(first.address, second.address) as relay:
            relay.relay(BODY)
            await relay.peers.settle()
            assert relay.counts() == {"delivered": 1, "unreachable": 1}
            async with listening(second):
                for _ in range(3):
                    relay.relay(BODY)
                    await relay.peers.settle()
    assert (len(first.got), len(second.got)) == (1, 1)
    assert relay.peers.is_delivered(BODY)


async def test_a_pod_with_two_addresses_counts_once() -> None:
    """A pod with IPv4 and IPv6 gets the webhook at both, which does no harm; where it says which one it is, it is counted once."""
    peers = [Peer(f"127.0.0.{number}", headers={"X-Datafile-Instance": "ab"}) for number in (2, 3)]
    other = Peer("127.0.0.4", headers={})
    async with listening(*peers, other), Relay(*(peer.address for peer in (*peers, other))) as relay:
        relay.relay(BODY)
        await relay.peers.settle()
    assert [len(peer.got) for peer in (*peers, other)] == [1, 1, 1]
    assert relay.counts() == {"delivered": 2}


# The webhook port, in a real process


@contextlib.asynccontextmanager
async def stage(tmp_path: Path, peers: Iterable[Peer]) -> AsyncIterator[tuple[RunningSidecar, Simulator]]:
    names = ",".join(f"{peer.host}:{peer.port}" for peer in peers)
    async with Simulator({"KEY1": minimal(42)}, secret=SECRET) as optimizely:
        options: dict[str, Any] = {"poll_interval_s": 0, "peers": names, "url_template": optimizely.template}
        async with RunningSidecar(
            tmp_path / "volume", sdk_keys="KEY1", webhook_secrets=SECRET.decode(), **options
        ) as sidecar:
            optimizely.webhook_urls = [sidecar.webhook_url]
            yield sidecar, optimizely


async def post(sidecar: RunningSidecar, body: bytes, **headers: str) -> int:
    signed = {"X-Hub-Signature": signature(body, SECRET), **headers}
    async with aiohttp.ClientSession() as session, session.post(sidecar.webhook_url, data=body, headers=signed) as got:
        return got.status


async def test_what_is_relayed_and_what_is_not(tmp_path: Path) -> None:
    """Every verified change is passed on, also what means nothing to this pod; other events, forgeries and relayed ones are not."""
    peer = Peer("127.0.0.2")
    ours = b'{"event":"project.datafile_updated","project_id":1234,"data":{"revision":42}}'
    others = b'{"event":"project.datafile_updated","project_id":9999,"data":{"revision":7}}'
    async with listening(peer), stage(tmp_path, [peer]) as (sidecar, _):
        assert await post(sidecar, b'{"event":"project.flag_updated"}') == 200
        assert await post(sidecar, ours, **{"X-Hub-Signature": "sha1=" + "0" * 40}) == 401
        assert await post(sidecar, b'{"event":"project.datafile_updated","data":[]}') == 400
        assert await post(sidecar, ours + b" ", **{"X-Datafile-Relayed": "1"}) == 202
        assert await post(sidecar, others) == 200
        await until(lambda: len(peer.got) == 1)
        assert await post(sidecar, ours) == 202
        await until(lambda: len(peer.got) == 2)
        assert [body for body, _ in peer.got] == [others, ours]
        await sidecar.logged("webhook.accepted", trigger="peer")
        async with asyncio.timeout(8):
            while (await sidecar.metrics())['datafile_sidecar_relays_total{outcome="delivered"}'] != 2:
                await asyncio.sleep(0.01)
        assert (await sidecar.status())["peers"]["names"] == [f"127.0.0.2:{peer.port}"]


async def test_who_took_a_relayed_webhook_says_which_sidecar_it_is(tmp_path: Path) -> None:
    """Only a peer with the secret learns it: strangers, and Optimizely, do not."""
    async with stage(tmp_path, []) as (sidecar, _), aiohttp.ClientSession() as session:
        for signed, relayed, is_named in [(True, True, True), (True, False, False), (False, True, False)]:
            headers = {"X-Hub-Signature": SIGNATURE.decode() if signed else "sha1=0"}
            headers |= {"X-Datafile-Relayed": "1"} if relayed else {}
            async with session.post(sidecar.webhook_url, data=BODY, headers=headers) as answer:
                assert answer.status in ({200, 202} if signed else {401})
                instance = (await sidecar.status())["instance"] if is_named else None
                assert answer.headers.get("X-Datafile-Instance") == instance


async def test_a_relayed_webhook_says_so(tmp_path: Path) -> None:
    """A person can see on the volume and in the metrics that a revision came by way of another pod."""
    async with stage(tmp_path, []) as (sidecar, optimizely):
        optimizely.webhook_urls = []
        await optimizely.publish("KEY1", minimal(43))
        body = b'{"event":"project.datafile_updated","project_id":1234,"data":{"revision":43,"cdn_url":"http://x/KEY1.json"}}'
        assert await post(sidecar, body, **{"X-Datafile-Relayed": "1"}) == 202
        await sidecar.logged("datafile.published", revision=43, trigger="peer")
        status = await sidecar.status()
        assert (status["keys"]["KEY1"]["trigger"], status["peers"]) == ("peer", {"state": "off"})


async def test_hanging_peers_delay_no_answer_and_no_end(tmp_path: Path) -> None:
    """Optimizely is answered at once and the pod ends in time, though every peer hangs."""
    with silent("127.0.0.4") as port:
        async with stage(tmp_path, [Peer("127.0.0.4", port)]) as (sidecar, optimizely):
            started = time.monotonic()
            assert await optimizely.publish("KEY1", minimal(43)) == 202
            assert time.monotonic() - started < 1
            await sidecar.logged("datafile.published", revision=43)
            assert await sidecar.stop() == 0
            assert time.monotonic() - started < 4


async def test_a_webhook_just_before_the_end(tmp_path: Path) -> None:
    """A pod that is stopped just after it received a webhook, even one for another project, still relays it to all others."""
    everybody = Peer("0.0.0.0")
    body = b'{"event":"project.datafile_updated","project_id":9999,"data":{"revision":7}}'
    async with listening(everybody):
        some = [Peer(f"127.0.2.{number}", everybody.port) for number in range(1, 121)]
        async with stage(tmp_path, some) as (sidecar, _):
            assert await post(sidecar, body) == 200
            assert await sidecar.stop() == 0
    assert len(everybody.got) == 120
