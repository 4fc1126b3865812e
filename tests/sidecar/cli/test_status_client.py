"""The client of `status` with sidecars that answer, hang, are gone or are something else."""

import asyncio
import json
import socket
import threading
import time
from typing import Any

import pytest

from datafile_sidecar.cli.status_client import Endpoints, StatusClient
from datafile_sidecar.cli.status_output import as_json, as_text
from datafile_sidecar.core.fleet_status import StatusResponse
from datafile_sidecar.core.wait_target import LATEST, WaitTarget
from datafile_sidecar.network.change_signal import ChangeSignal
from datafile_sidecar.network.resolver import DaemonResolver
from tests.sidecar.cli.status_servers import KEY, Sidecar, listening, silent

TARGET = WaitTarget(KEY, 43)


def client(
    port: int,
    *hosts: str,
    names: tuple[str, ...] = (),
    dns: dict[str, list[str]] | None = None,
    own_port: int | None = None,
    expected: int | None = None,
) -> StatusClient:
    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        if not dns or host not in dns:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0, 0, 0))
            for address in dns[host]
        ]

    peers = tuple((name, 8089) for name in names)
    endpoints = Endpoints(tuple(f"http://{host}:{port}" for host in hosts), peers, port, own_port)
    return StatusClient(endpoints, DaemonResolver(getaddrinfo), expected=expected)


def named(answers: list[StatusResponse]) -> list[str]:
    return [answer.status.pod if answer.status else answer.endpoint for answer in answers]


async def test_every_address_of_every_name_is_asked_once() -> None:
    """The user sees each pod behind the headless Service once, including the pod that the command runs in."""
    some = Sidecar("127.0.0.1", pod="own"), Sidecar("127.0.0.2", pod="own"), Sidecar("127.0.0.3")
    async with listening(*some) as port:
        dns = {"peers": ["127.0.0.2", "127.0.0.3"]}
        answers = await client(port, "127.0.0.1", names=("peers", "127.0.0.3"), dns=dns, own_port=8089).ask()
    assert named(answers) == ["own", "pod-127.0.0.3"]
    assert TARGET.lagging(answers) == []


async def test_unreachable_sidecars_lag() -> None:
    """A pod that hangs, one that is gone, another program and an unresolved name are distinguished within seconds."""
    fine, broken, other = Sidecar("127.0.0.2"), Sidecar("127.0.0.3"), Sidecar("127.0.0.4")
    broken.status, other.body = 307, b"<html>\x1b[2J</html>"
    async with listening(fine, broken, other) as port:
        with silent("127.0.0.5", port):
            hosts = [f"127.0.0.{number}" for number in (2, 3, 4, 5, 6)]
            started = time.monotonic()
            answers = await client(port, *hosts, names=("gone", "bad..name")).ask()
            assert time.monotonic() - started < 5
    lagging = TARGET.lagging(answers)
    assert len(lagging) == 6
    for endpoint, words in (
        (f"127.0.0.3:{port}", "answers 307"),
        (f"127.0.0.4:{port}", "not with a sidecar's status"),
        (f"127.0.0.5:{port}", "no answer within 2 s"),
        (f"127.0.0.6:{port}", "unreachable: refuses connections: ended, or starting again?"),
        ("gone", "does not resolve: Name or service not known"),
        ("bad..name", "does not resolve"),
    ):
        assert any(sentence.startswith(endpoint) and words in sentence for sentence in lagging), (endpoint, lagging)
    assert broken.asked == 1
    assert as_text(answers, TARGET, None).replace("\n", "").isprintable()
    shown = json.loads(as_json(answers, TARGET))
    assert (shown["sdk_key"], shown["wanted_revision"], len(shown["lagging"])) == (KEY, 43, 6)
    assert len(shown["sidecars"]) == 7


@pytest.mark.parametrize(
    "body",
    [b'{"pod":"p","keys":{}}' + b" " * 5_000_000, b"[" * 1_000_000, b'{"pod":"p","keys":{"KEY1":{"revision":-1}}}'],
)
async def test_invalid_answers(body: bytes) -> None:
    """Whatever answers at a pod's address, the command ends, reports it, and does not count it as up to date."""
    sidecar = Sidecar("127.0.0.2")
    sidecar.body = body
    async with listening(sidecar) as port:
        (lagging,) = TARGET.lagging(await client(port, "127.0.0.2").ask())
    assert "answers" in lagging


async def test_it_waits_until_the_last_has_it() -> None:
    """The command ends right after the last worker has applied the revision; pods that started meanwhile are included."""
    first, second = Sidecar("127.0.0.2"), Sidecar("127.0.0.3", revision=42)
    dns = {"peers": ["127.0.0.3"]}
    async with listening(first, second) as port:
        task = asyncio.create_task(client(port, names=("peers",), dns=dns).wait(WaitTarget(KEY, LATEST), 20))
        while second.asked < 2:
            await asyncio.sleep(0.01)
        dns["peers"] = ["127.0.0.2", "127.0.0.3"]
        while not first.asked:
            await asyncio.sleep(0.01)
        assert not task.done()
        second.revision = 43
        answers, _ = await asyncio.wait_for(task, 5)
    assert named(answers) == ["pod-127.0.0.2", "pod-127.0.0.3"]


async def test_it_is_told() -> None:
    """A rollout that takes long costs the sidecars hardly a request, and the yes comes when the last one has told it."""
    fast, slow = Sidecar("127.0.0.2", revision=42), Sidecar("127.0.0.3", revision=42)
    fast.changes, slow.changes = fast_changes, slow_changes = ChangeSignal(), ChangeSignal()
    async with listening(fast, slow) as port:
        task = asyncio.create_task(client(port, "127.0.0.2", "127.0.0.3").wait(TARGET, 20))
        await asyncio.sleep(3)
        assert fast.asked <= 10
        fast.revision = 43
        fast_changes.notify()
        slow_changes.notify()  # of something else
        await asyncio.sleep(0.3)
        assert not task.done()
        slow.revision = 43
        slow_changes.notify()
        async with asyncio.timeout(0.6):
            answers, _ = await task
    assert TARGET.lagging(answers) == []


async def test_a_sidecar_that_holds_no_more_requests_is_polled() -> None:
    """One that answers at once, though nothing has changed, is not asked again and again without a pause."""
    sidecar = Sidecar("127.0.0.2", revision=42)
    sidecar.body = (
        b'{"pod":"p","instance":"p","status_version":7,"workers":{"state":"on","settled":true},'
        b'"keys":{"KEY1":{"revision":42,"workers":[]}}}'
    )
    async with listening(sidecar) as port:
        task = asyncio.create_task(client(port, "127.0.0.2").wait(TARGET, 20))
        await asyncio.sleep(2)
        assert 4 <= sidecar.asked <= 20
        sidecar.revision, sidecar.body = 43, b""
        async with asyncio.timeout(2):
            await task


@pytest.mark.parametrize(
    "doubt", [{"settled": False}, {"unreported": [{"id": "0a1b2c3d", "pid": 17}]}, {"presence": "unknown"}]
)
async def test_what_no_change_tells_is_looked_at_soon(doubt: dict[str, Any]) -> None:
    """A process without a report ends unheard, and time passes unheard: the command looks, and does not wait to be told."""
    sidecar = Sidecar("127.0.0.2")
    sidecar.changes, sidecar.workers = ChangeSignal(), doubt
    async with listening(sidecar) as port:
        task = asyncio.create_task(client(port, "127.0.0.2").wait(TARGET, 20))
        await asyncio.sleep(1)
        assert sidecar.asked >= 3
        sidecar.workers = {}
        async with asyncio.timeout(0.6):
            await task


async def test_what_was_expected_once_is_not_forgotten() -> None:
    """A sidecar that knew of 45 restarts and knows of it no more: `latest` is still 45."""
    sidecar = Sidecar("127.0.0.2")
    sidecar.body = b'{"pod":"p","keys":{"KEY1":{"revision":43,"target_revision":45}}}'
    async with listening(sidecar) as port:
        task = asyncio.create_task(client(port, "127.0.0.2").wait(WaitTarget(KEY, LATEST), 2))
        while not sidecar.asked:
            await asyncio.sleep(0.01)
        sidecar.body = b""
        answers, target = await asyncio.wait_for(task, 10)
    assert target.wanted(answers) == 45
    assert target.lagging(answers)


async def test_errors_are_shown() -> None:
    """The table is followed by errors, such as a full volume, with their pods."""
    sidecar = Sidecar("127.0.0.2")
    sidecar.body = b'{"pod":"p","keys":{"KEY1":{"revision":3,"last_error":"No space left on device"}}}'
    async with listening(sidecar) as port:
        text = as_text(await client(port, "127.0.0.2").ask(), None, None)
    assert text.endswith(f"errors:\n  p (127.0.0.2:{port}): KEY1: No space left on device")


async def test_it_gives_up_in_time() -> None:
    """Without the revision, the command ends at its timeout, at most one round of requests later."""
    sidecar = Sidecar("127.0.0.2", revision=42)
    async with listening(sidecar) as port:
        started = time.monotonic()
        answers, _ = await client(port, "127.0.0.2").wait(TARGET, 1)
        assert 0.5 < time.monotonic() - started < 3
        assert TARGET.lagging(answers) == [
            f"pod-127.0.0.2 (127.0.0.2:{port}): worker 0a1b2c3d (pid 17 on app) uses revision 42"
        ]
        sidecar.asked = 0
        await client(port, "127.0.0.2").wait(TARGET, 0)
        assert sidecar.asked == 1


@pytest.mark.parametrize(
    ("listen", "url"),
    [("", "http://127.0.0.1:8088"), ("0.0.0.0", "http://127.0.0.1:8088"), ("::", "http://[::1]:8088")],
)
def test_this_sidecar_is_found(listen: str, url: str) -> None:
    """Inside the sidecar's container the command needs no option: it asks the address that the sidecar listens on."""
    assert Endpoints.of_fleet(listen, 8088, [("a", 1)], 8089) == Endpoints((url,), (("a", 1),), 8088, 8089)


async def test_a_dual_stack_pod_is_counted_once() -> None:
    """A pod with an IPv4 and an IPv6 address is one sidecar, wherever sidecars are counted."""
    sidecars = Sidecar("127.0.0.2", pod="both"), Sidecar("::1", pod="both"), Sidecar("127.0.0.3")
    async with listening(*sidecars) as port:
        dns = {"peers": ["127.0.0.2", "127.0.0.3", "::1"]}
        answers = await client(port, names=("peers",), dns=dns).ask()
        assert named(answers) == ["both", "pod-127.0.0.3"]
        assert TARGET.lagging(await client(port, names=("peers",), dns=dns, expected=2).ask()) == []
        (sentence,) = TARGET.lagging(await client(port, names=("peers",), dns=dns, expected=3).ask())
    assert sentence == "fleet: sidecars that answered: 2, expected: 3"


async def test_two_addresses_with_one_sidecar_prove_one() -> None:
    """Where another sidecar should answer but the same one does, the other is not known, unless all expected ones are."""
    async with listening(Sidecar("127.0.0.2", pod="same"), Sidecar("127.0.0.3", pod="same")) as port:
        (sentence,) = TARGET.lagging(await client(port, "127.0.0.2", "127.0.0.3").ask())
        assert sentence.startswith(f"127.0.0.2:{port}: the same sidecar answers at 127.0.0.3:{port}")
        assert TARGET.lagging(await client(port, "127.0.0.2", "127.0.0.3", expected=1).ask()) == []


async def test_a_cut_off_name_is_not_all() -> None:
    """More pods than a DNS answer holds are not known, so they are not confirmed."""
    dns = {"peers": [f"127.1.{number // 250}.{1 + number % 250}" for number in range(4094)]}
    lagging = TARGET.lagging(await client(9, names=("peers",), dns=dns).ask(1))
    assert "more may be missing" in lagging[-1]
    assert len([one for one in lagging if "does not resolve" not in one]) == 4095


async def test_a_name_without_addresses_is_not_all() -> None:
    """A name that resolves, but to nothing, does not make this sidecar the whole fleet."""
    async with listening(Sidecar("127.0.0.2")) as port:
        lagging = TARGET.lagging(await client(port, "127.0.0.2", names=("empty",), dns={"empty": []}).ask())
    assert lagging == ["empty: the name resolves to no address"]


async def test_partial_answers_of_a_name_server() -> None:
    """An address that the name gives only the second time is not confirmed, though all that were asked are."""

    class Partial(dict[str, list[str]]):
        def __getitem__(self, name: str) -> list[str]:
            hosts = super().__getitem__(name)
            hosts.append(hosts.pop(0))
            return hosts[:1]

    async with listening(Sidecar("127.0.0.2"), Sidecar("127.0.0.3")) as port:
        dns = Partial(peers=["127.0.0.3", "127.0.0.2"])
        lagging = TARGET.lagging(await client(port, names=("peers",), dns=dns).ask())
    assert lagging == [f"127.0.0.3:{port}: a new address: not asked yet"]


async def test_an_answer_that_breaks_off() -> None:
    """Half an answer is none, whether or not its length was announced."""
    whole = b'{"pod":"p","keys":{"KEY1":{"revision":43}}}'
    for head in (b"Content-Length: 43\r\n", b""):

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes = head) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + head + b"\r\n" + whole[:-1])
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.2", 0) as server:
            (lagging,) = TARGET.lagging(await client(server.sockets[0].getsockname()[1], "127.0.0.2").ask())
        assert "answers, but" in lagging


async def test_the_timeout_holds_whatever_hangs() -> None:
    """Hundreds of silent pods and a hanging name server do not make the command last longer."""
    release = threading.Event()

    def hangs(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        release.wait(20)
        return []

    hosts = tuple(f"127.3.{number // 200}.{1 + number % 200}" for number in range(600))
    with socket.create_server(("0.0.0.0", 0), backlog=1024) as silent_port:
        port = silent_port.getsockname()[1]
        endpoints = Endpoints(tuple(f"http://{host}:{port}" for host in hosts), (("hangs", 1),), port)
        started = time.monotonic()
        answers, _ = await StatusClient(endpoints, DaemonResolver(hangs)).wait(TARGET, 0.5)
        assert time.monotonic() - started < 3
    release.set()
    problems = {answer.problem for answer in answers}
    assert "unreachable: no answer before the --timeout" in problems or "not asked before the --timeout" in problems
    assert len(TARGET.lagging(answers)) == 601


async def test_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A low limit of open files makes the command slower, and loses no answer."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (66, 66))
    async with listening(*(Sidecar(f"127.0.0.{number}") for number in range(2, 8))) as port:
        answers = await client(port, *(f"127.0.0.{number}" for number in range(2, 8))).ask()
    assert TARGET.lagging(answers) == []
