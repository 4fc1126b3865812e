"""`datafile-sidecar status` as a shell sees it."""

import asyncio
import json

import pytest

from datafile_sidecar.cli.main import main
from tests.sidecar.cli.status_servers import KEY, Sidecar, listening


def status(*arguments: str, **environ: str) -> int:
    return main(["status", *arguments], environ)


async def test_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    """0 when all have the revision, else 1 and their names; the environment of the sidecar is all it needs."""
    own, peer = Sidecar("127.0.0.1"), Sidecar("127.0.0.2", revision=42)
    async with listening(own, peer) as port:
        environ = {
            "DATAFILE_SDK_KEYS": KEY,
            "DATAFILE_ADMIN_LISTEN": f"127.0.0.1:{port}",
            "DATAFILE_PEERS": "127.0.0.2:1,127.0.0.2:2",
        }
        assert await asyncio.to_thread(_quiet, [], environ) == 0
        assert await asyncio.to_thread(_quiet, ["--wait-for-revision", "42", "--timeout", "0"], environ) == 0
        assert "all confirmed at revision 42 or newer" in capsys.readouterr().out
        assert await asyncio.to_thread(_quiet, ["--wait-for-revision", "latest", "--timeout", "0"], environ) == 1
        out = capsys.readouterr().out
        assert "not confirmed at revision 43:\n  pod-127.0.0.2 (127.0.0.2" in out
        url = f"127.0.0.1:{port}"
        arguments = ["--url", url, "--sdk-key", KEY, "--wait-for-revision", "43", "--timeout", "0", "--json"]
        assert await asyncio.to_thread(_quiet, arguments, {}) == 0
        assert json.loads(capsys.readouterr().out)["lagging"] == []
        assert await asyncio.to_thread(_quiet, ["--url", "http://127.0.0.1:1"], {}) == 1


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
    for wrong in (["--wait-for-revision", "new"], ["--timeout", "nan"], ["--timeout", "-1"]):
        with pytest.raises(SystemExit) as caught:
            status(*wrong)
        assert caught.value.code == 2
