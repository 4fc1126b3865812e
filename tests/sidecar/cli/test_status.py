"""`datafile-sidecar status`: what it makes of sidecars that answer, lie, hang or are not there, and what it tells a shell."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from aiohttp import web

from datafile_sidecar.cli.main import main
from datafile_sidecar.cli.status import LATEST, Fleet, Places, Wish, as_json, as_text
from datafile_sidecar.core.fleet_status import Answer
from datafile_sidecar.network.resolver import DaemonResolver

KEY = "KEY1"
WISH = Wish(KEY, 43)


class Sidecar:
    """Another pod's admin port. Says that its one worker decides by `revision`, or whatever `body` holds."""

    def __init__(self, host: str, revision: int = 43, pod: str | None = None) -> None:
        self.host, self.pod, self.revision = host, pod or f"pod-{host}", revision
        self.status, self.body, self.asked, self.port = 200, b"", 0, 0

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        worker = {"id": "0a1b2c3d", "pid": 17, "host": "app", "revision": self.revision}
        report = {
            "pod": self.pod,
            "instance": self.pod,
            "keys": {KEY: {"revision": 43, "target_revision": 43, "workers": [worker]}},
            "workers": {"state": "on", "settled": True},
        }
        body = self.body or json.dumps(report).encode()
        return web.Response(status=self.status, body=body, headers={"Location": "/status"})


@contextlib.asynccontextmanager
async def listening(*sidecars: Sidecar) -> AsyncIterator[int]:
    """Serve them, all at one port, which is what comes out."""
    port = 0
    async with contextlib.AsyncExitStack() as stack:
        for sidecar in sidecars:
            app = web.Application()
            app.router.add_get("/status", sidecar.answer)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, sidecar.host, port).start()
            port = sidecar.port = runner.addresses[0][1]
        yield port


@contextlib.contextmanager
def silent(host: str, port: int) -> Iterator[None]:
    with socket.create_server((host, port)):
        yield


def fleet(port: int, *hosts: str, names: tuple[str, ...] = (), dns: dict[str, list[str]] | None = None) -> Fleet:
    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        if not dns or host not in dns:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in dns[host]]

    places = Places(tuple(f"http://{host}:{port}" for host in hosts), names, port)
    return Fleet(places, DaemonResolver(getaddrinfo))


def named(answers: list[Answer]) -> list[str]:
    return [answer.report.pod if answer.report else answer.place for answer in answers]


async def test_every_address_of_every_name_is_asked_once() -> None:
    """The person sees each pod behind the headless Service, and the sidecar that they are in only once."""
    some = Sidecar("127.0.0.1", pod="own"), Sidecar("127.0.0.2", pod="own"), Sidecar("127.0.0.3")
    async with listening(*some) as port:
        dns = {"peers": ["127.0.0.2", "127.0.0.3"]}
        answers = await fleet(port, "127.0.0.1", names=("peers", "127.0.0.3"), dns=dns).ask()
    assert named(answers) == ["own", "pod-127.0.0.3"]
    assert WISH.lagging(answers) == []


async def test_who_cannot_be_asked_lags_by_name() -> None:
    """A pod that hangs, one that is gone, another program and a name without addresses are told apart, within seconds."""
    fine, broken, other = Sidecar("127.0.0.2"), Sidecar("127.0.0.3"), Sidecar("127.0.0.4")
    broken.status, other.body = 307, b"<html>\x1b[2J</html>"
    async with listening(fine, broken, other) as port:
        with silent("127.0.0.5", port):
            hosts = [f"127.0.0.{number}" for number in (2, 3, 4, 5, 6)]
            started = time.monotonic()
            answers = await fleet(port, *hosts, names=("gone", "bad..name")).ask()
            assert time.monotonic() - started < 5
    told = WISH.lagging(answers)
    assert len(told) == 6
    for place, words in (
        (f"127.0.0.3:{port}", "answers 307"),
        (f"127.0.0.4:{port}", "not as a sidecar does"),
        (f"127.0.0.5:{port}", "no answer within 2 s"),
        (f"127.0.0.6:{port}", "can't be asked: Connection refused"),
        ("gone", "does not resolve: Name or service not known"),
        ("bad..name", "does not resolve"),
    ):
        assert any(sentence.startswith(place) and words in sentence for sentence in told), (place, told)
    assert broken.asked == 1
    assert as_text(answers, WISH, None).replace("\n", "").isprintable()
    shown = json.loads(as_json(answers, WISH))
    assert (shown["sdk_key"], shown["wanted_revision"], len(shown["lagging"])) == (KEY, 43, 6)
    assert len(shown["sidecars"]) == 7


@pytest.mark.parametrize(
    "body",
    [b'{"pod":"p","keys":{}}' + b" " * 5_000_000, b"[" * 1_000_000, b'{"pod":"p","keys":{"KEY1":{"revision":-1}}}'],
)
async def test_a_hostile_answer_is_no_report(body: bytes) -> None:
    """Whatever answers at a pod's address, the command ends, says so, and takes nobody to be up to date."""
    sidecar = Sidecar("127.0.0.2")
    sidecar.body = body
    async with listening(sidecar) as port:
        (told,) = WISH.lagging(await fleet(port, "127.0.0.2").ask())
    assert "answers" in told


async def test_it_waits_until_the_last_has_it() -> None:
    """The command ends a moment after the last worker has applied the revision, and pods that came meanwhile count."""
    first, second = Sidecar("127.0.0.2"), Sidecar("127.0.0.3", revision=42)
    dns = {"peers": ["127.0.0.3"]}
    async with listening(first, second) as port:
        task = asyncio.create_task(fleet(port, names=("peers",), dns=dns).wait(Wish(KEY, LATEST), 20))
        while second.asked < 2:
            await asyncio.sleep(0.01)
        dns["peers"] = ["127.0.0.2", "127.0.0.3"]
        while not first.asked:
            await asyncio.sleep(0.01)
        assert not task.done()
        second.revision = 43
        answers = await asyncio.wait_for(task, 5)
    assert named(answers) == ["pod-127.0.0.2", "pod-127.0.0.3"]


async def test_what_is_wrong_is_said_without_being_asked_for() -> None:
    """Who only looks at the table still reads that a volume can't be written to, and by which pod."""
    sidecar = Sidecar("127.0.0.2")
    sidecar.body = b'{"pod":"p","keys":{"KEY1":{"revision":3,"last_error":"No space left on device"}}}'
    async with listening(sidecar) as port:
        text = as_text(await fleet(port, "127.0.0.2").ask(), None, None)
    assert text.endswith(f"not well:\n  p (127.0.0.2:{port}): KEY1: No space left on device")


async def test_it_gives_up_in_time() -> None:
    """A revision that does not come makes the command end at its time-out, and at most one round of questions later."""
    sidecar = Sidecar("127.0.0.2", revision=42)
    async with listening(sidecar) as port:
        started = time.monotonic()
        answers = await fleet(port, "127.0.0.2").wait(WISH, 1)
        assert 0.5 < time.monotonic() - started < 3
        assert WISH.lagging(answers) == [
            f"pod-127.0.0.2 (127.0.0.2:{port}): worker 0a1b2c3d (pid 17 on app) decides by revision 42"
        ]
        sidecar.asked = 0
        await fleet(port, "127.0.0.2").wait(WISH, 0)
        assert sidecar.asked == 1


@pytest.mark.parametrize(
    ("listen", "url"),
    [("", "http://127.0.0.1:8088"), ("0.0.0.0", "http://127.0.0.1:8088"), ("::", "http://[::1]:8088")],
)
def test_this_sidecar_is_found(listen: str, url: str) -> None:
    """Inside the sidecar's container the command needs no option: it asks where the sidecar listens."""
    assert Places.around(listen, 8088, ["a", "a"]) == Places((url,), ("a",), 8088)


# What a shell sees


def status(*arguments: str, **environ: str) -> int:
    return main(["status", *arguments], environ)


async def test_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    """0 when all have it, 1 and their names when not, and all is settled by one environment for sidecar and command."""
    own, peer = Sidecar("127.0.0.1"), Sidecar("127.0.0.2", revision=42)
    async with listening(own, peer) as port:
        environ = {
            "DATAFILE_SDK_KEYS": KEY,
            "DATAFILE_ADMIN_LISTEN": f"127.0.0.1:{port}",
            "DATAFILE_PEERS": "127.0.0.2:1,127.0.0.2:2",
        }
        assert await asyncio.to_thread(_quiet, [], environ) == 0
        assert await asyncio.to_thread(_quiet, ["--wait-for-revision", "42", "--timeout", "0"], environ) == 0
        assert "all decide by revision 42 or newer" in capsys.readouterr().out
        assert await asyncio.to_thread(_quiet, ["--wait-for-revision", "latest", "--timeout", "0"], environ) == 1
        out = capsys.readouterr().out
        assert "not known to decide by revision 43:\n  pod-127.0.0.2 (127.0.0.2" in out
        url = f"127.0.0.1:{port}"
        arguments = ["--url", url, "--sdk-key", KEY, "--wait-for-revision", "43", "--timeout", "0", "--json"]
        assert await asyncio.to_thread(_quiet, arguments, {}) == 0
        assert json.loads(capsys.readouterr().out)["lagging"] == []
        assert await asyncio.to_thread(_quiet, ["--url", "http://127.0.0.1:1"], {}) == 1


def _quiet(arguments: list[str], environ: dict[str, str]) -> int:
    """The command, without the signal handlers that only a main thread may set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("signal.signal", lambda *_: None)
        return status(*arguments, **environ)


def test_what_it_cannot_guess_it_asks_for(capsys: pytest.CaptureFixture[str]) -> None:
    """With several keys, or with a port that the system picked, the person is told which option to add."""
    assert status("--wait-for-revision", "latest", DATAFILE_SDK_KEYS="A,B") == 2
    assert "--sdk-key: A, B" in capsys.readouterr().err
    assert status(DATAFILE_ADMIN_LISTEN=":0") == 2
    assert "--url" in capsys.readouterr().err
    assert status(DATAFILE_PEERS="http://peers:1,x") == 2
    assert "write HOST:PORT" in capsys.readouterr().err
    for wrong in (["--wait-for-revision", "new"], ["--timeout", "nan"], ["--timeout", "-1"]):
        with pytest.raises(SystemExit) as caught:
            status(*wrong)
        assert caught.value.code == 2
