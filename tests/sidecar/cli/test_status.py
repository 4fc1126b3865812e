"""`datafile-sidecar status` as a shell sees it."""

import asyncio
import json
import socket
import time
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from datafile_sidecar.cli.main import main
from tests.datafiles import minimal
from tests.sidecar.cli.status_servers import KEY, Sidecar, listening

NO_UPSTREAM = {"DATAFILE_URL_TEMPLATE": "http://127.0.0.1:9/{sdk_key}.json"}


def status(*arguments: str, **environ: str) -> int:
    return main(["status", *arguments], environ)


async def test_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    """0 when all have the revision, else 1 and their names; the environment of the sidecar is all it needs."""
    own, peer = Sidecar("127.0.0.1"), Sidecar("127.0.0.2", revision=42)
    async with listening(own, peer) as port:
        environ = {
            "DATAFILE_SDK_KEYS": KEY,
            "DATAFILE_ADMIN_LISTEN": f"127.0.0.1:{port}",
            "DATAFILE_PEERS": "127.0.0.2:1",
        }
        assert await asyncio.to_thread(_quiet, [], environ) == 0
        assert await asyncio.to_thread(_quiet, ["--wait-for-revision", "42", "--timeout", "0"], environ) == 0
        assert "all confirmed at revision 42 or newer" in capsys.readouterr().out
        latest = ["--wait-for-revision", "latest", "--latest-known", "--timeout", "0"]
        assert await asyncio.to_thread(_quiet, latest, environ | NO_UPSTREAM) == 1
        out = capsys.readouterr().out
        assert "not confirmed at revision 43:\n  pod-127.0.0.2 (127.0.0.2" in out
        url = f"127.0.0.1:{port}"
        arguments = ["--url", url, "--sdk-key", KEY, "--wait-for-revision", "43", "--timeout", "0", "--json"]
        assert await asyncio.to_thread(_quiet, arguments, {}) == 0
        assert json.loads(capsys.readouterr().out)["lagging"] == []
        assert await asyncio.to_thread(_quiet, ["--url", "http://127.0.0.1:1"], {}) == 1


async def test_the_receipt_of_admin_ports(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Without a bus the receipt says who was asked, and no times, for the sidecars don't tell when all workers applied it."""
    receipt = tmp_path / "receipt.json"
    async with listening(Sidecar("127.0.0.1")) as port:
        arguments = ["--url", f"127.0.0.1:{port}", "--sdk-key", KEY, "--wait-for-revision", "43", "--timeout", "0"]
        assert await asyncio.to_thread(_quiet, [*arguments, "--receipt", str(receipt)], {}) == 0
        assert await asyncio.to_thread(_quiet, [*arguments, "--receipt", str(tmp_path)], {}) == 1
    assert "can't be written" in capsys.readouterr().err
    proven = json.loads(receipt.read_text())
    assert (proven["source"], proven["pods"], proven["workers"]) == ("the admin ports of the sidecars", 1, 1)
    assert (proven["first_applied"], proven["excused"], proven["signed"]) == (None, [], False)


async def test_what_is_not_known_is_a_no(capsys: pytest.CaptureFixture[str]) -> None:
    """Two sidecars at one address, and a bus that can't be read, are not confirmed; `--expect` says how many there are."""
    async with listening(Sidecar("127.0.0.1"), Sidecar("127.0.0.2")) as port:
        own = {"DATAFILE_SDK_KEYS": KEY, "DATAFILE_ADMIN_LISTEN": f"127.0.0.1:{port}"}
        bus = {"DATAFILE_BUS_URL": "redis://127.0.0.1:1"}
        wait = ["--wait-for-revision", "43", "--timeout", "0"]
        for environ, expected, exit_status, words in (
            (own | {"DATAFILE_PEERS": "127.0.0.2:1,127.0.0.2:2"}, (), 1, "for the webhook ports 1, 2"),
            (own | {"DATAFILE_PEERS": "127.0.0.1:1"}, (), 1, "for the webhook ports 1, 8089"),
            (own | {"DATAFILE_PEERS": "127.0.0.1:1"}, ("--expect", "2"), 1, "answered: 1, expected: 2"),
            (own | {"DATAFILE_PEERS": "127.0.0.1:8089"}, (), 0, "(sidecars: 1, workers: 1)"),
            (own | bus, (), 1, "bus: redis://127.0.0.1:1: "),
            (own | bus | {"DATAFILE_PEERS": "127.0.0.2:1"}, ("--expect", "2"), 1, "bus: redis://127.0.0.1:1: "),
            (own | bus, ("--url", f"127.0.0.1:{port}"), 0, "all confirmed"),
            (own | {"DATAFILE_PEERS": "127.0.0.2:1"}, ("--expect", "1"), 1, "answered: 2, expected: 1"),
        ):
            assert await asyncio.to_thread(_quiet, [*wait, *expected], environ) == exit_status
            assert words in capsys.readouterr().out
            assert await asyncio.to_thread(_quiet, [*expected], environ) == exit_status
            capsys.readouterr()


async def test_latest_is_what_upstream_has(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A revision that upstream serves and no sidecar knows is waited for; it is asked as the daemon asks it, with the token."""
    asked: list[str | None] = []

    async def datafile(request: web.Request) -> web.Response:
        asked.append(request.headers.get("Authorization"))
        return web.Response(body=minimal(44))

    (tmp_path / KEY).write_text("token-1")
    upstream = web.Application()
    upstream.router.add_get(f"/datafiles/{KEY}.json", datafile)
    own = Sidecar("127.0.0.1")
    async with listening(own) as port, TestServer(upstream) as server:
        environ = {
            "DATAFILE_SDK_KEYS": KEY,
            "DATAFILE_ADMIN_LISTEN": f"127.0.0.1:{port}",
            "DATAFILE_URL_TEMPLATE": str(server.make_url("/datafiles/")) + "{sdk_key}.json",
            "DATAFILE_ACCESS_TOKENS_PATH": str(tmp_path),
        }
        latest = ["--wait-for-revision", "latest", "--timeout", "1"]
        assert await asyncio.to_thread(_quiet, latest, environ) == 1
        assert "not confirmed at revision 44" in capsys.readouterr().out
        assert asked == ["Bearer token-1"]
        own.file_revision = own.revision = 44
        assert await asyncio.to_thread(_quiet, [*latest, "--json"], environ) == 0
        shown = json.loads(capsys.readouterr().out)
        assert (shown["wanted_revision"], shown["upstream_revision"]) == (44, 44)


@pytest.mark.parametrize(("answers", "exit_status"), [([503, 200], 0), ([404, 200], 1), ([503, 503, 503, 200], 1)])
async def test_latest_outlives_a_passing_fault_of_upstream(answers: list[int], exit_status: int) -> None:
    """One 503 does not end the wait; a refusal does, and so do three faults in a row."""
    left = iter(answers)

    async def datafile(_: web.Request) -> web.Response:
        return web.Response(status=next(left), body=minimal(43))

    upstream = web.Application()
    upstream.router.add_get(f"/datafiles/{KEY}.json", datafile)
    async with listening(Sidecar("127.0.0.1")) as port, TestServer(upstream) as server:
        environ = {
            "DATAFILE_SDK_KEYS": KEY,
            "DATAFILE_ADMIN_LISTEN": f"127.0.0.1:{port}",
            "DATAFILE_URL_TEMPLATE": str(server.make_url("/datafiles/")) + "{sdk_key}.json",
        }
        latest = ["--wait-for-revision", "latest", "--timeout", "30"]
        assert await asyncio.to_thread(_quiet, latest, environ) == exit_status


async def test_latest_without_upstream(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Where upstream can't be asked, `latest` is not known: that is said, and the status is 1 in time."""
    no_token = tmp_path / KEY
    no_token.write_text("")
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        hangs = {"DATAFILE_URL_TEMPLATE": f"http://127.0.0.1:{hanging.getsockname()[1]}/{{sdk_key}}.json"}
        async with listening(Sidecar("127.0.0.1")) as port:
            own = {"DATAFILE_SDK_KEYS": KEY, "DATAFILE_ADMIN_LISTEN": f"127.0.0.1:{port}"}
            latest = ["--wait-for-revision", "latest", "--timeout", "1"]
            for environ, words in (
                (NO_UPSTREAM, "can't connect"),
                (hangs, "no"),
                ({"HTTP_PROXY": "ftp://x", **NO_UPSTREAM}, "HTTP_PROXY"),
                ({"DATAFILE_ACCESS_TOKENS_PATH": str(tmp_path), **NO_UPSTREAM}, "does not contain an access token"),
            ):
                started = time.monotonic()
                assert await asyncio.to_thread(_quiet, latest, own | environ) == 1
                assert time.monotonic() - started < 3
                out = capsys.readouterr().out
                assert "upstream: can't be asked: " in out
                assert words in out
            assert await asyncio.to_thread(_quiet, [*latest, "--latest-known"], own | NO_UPSTREAM) == 0


def _quiet(arguments: list[str], environ: dict[str, str]) -> int:
    """Run the command without signal handlers, which only a main thread may set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("signal.signal", lambda *_: None)
        return status(*arguments, **environ)


def test_missing_options(capsys: pytest.CaptureFixture[str]) -> None:
    """With several keys, or with port 0, the error says which option to add."""
    assert status("--wait-for-revision", "latest", DATAFILE_SDK_KEYS="A,B") == 2
    assert "--sdk-key: A, B" in capsys.readouterr().err
    assert status(DATAFILE_ADMIN_LISTEN=":0") == 2
    assert "--url" in capsys.readouterr().err
    assert status(DATAFILE_PEERS="http://peers:1,x") == 2
    assert "write HOST:PORT" in capsys.readouterr().err
    for wrong in (["--wait-for-revision", "new"], ["--timeout", "nan"], ["--timeout", "-1"], ["--expect", "0"]):
        with pytest.raises(SystemExit) as caught:
            status(*wrong)
        assert caught.value.code == 2
