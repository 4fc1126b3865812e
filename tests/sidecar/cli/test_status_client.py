"""The client of `status` with sidecars that answer, hang, are gone or are something else."""

import asyncio
import json
import socket
import time
from typing import Any

import pytest

from datafile_sidecar.cli.status_client import LATEST, Endpoints, StatusClient, WaitTarget
from datafile_sidecar.cli.status_output import as_json, as_text
from datafile_sidecar.core.fleet_status import StatusResponse
from datafile_sidecar.network.resolver import DaemonResolver
from tests.sidecar.cli.status_servers import KEY, Sidecar, listening, silent

TARGET = WaitTarget(KEY, 43)


def client(
    port: int, *hosts: str, names: tuple[str, ...] = (), dns: dict[str, list[str]] | None = None
) -> StatusClient:
    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        if not dns or host not in dns:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in dns[host]]

    endpoints = Endpoints(tuple(f"http://{host}:{port}" for host in hosts), names, port)
    return StatusClient(endpoints, DaemonResolver(getaddrinfo))


def named(answers: list[StatusResponse]) -> list[str]:
    return [answer.status.pod if answer.status else answer.endpoint for answer in answers]


async def test_every_address_of_every_name_is_asked_once() -> None:
    """The user sees each pod behind the headless Service once, including the pod that the command runs in."""
    some = Sidecar("127.0.0.1", pod="own"), Sidecar("127.0.0.2", pod="own"), Sidecar("127.0.0.3")
    async with listening(*some) as port:
        dns = {"peers": ["127.0.0.2", "127.0.0.3"]}
        answers = await client(port, "127.0.0.1", names=("peers", "127.0.0.3"), dns=dns).ask()
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
        (f"127.0.0.6:{port}", "unreachable: Connection refused"),
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
        answers = await asyncio.wait_for(task, 5)
    assert named(answers) == ["pod-127.0.0.2", "pod-127.0.0.3"]


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
        answers = await client(port, "127.0.0.2").wait(TARGET, 1)
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
    assert Endpoints.of_fleet(listen, 8088, ["a", "a"]) == Endpoints((url,), ("a",), 8088)
