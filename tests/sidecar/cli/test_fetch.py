"""`datafile-sidecar fetch` as an init container or a cron job runs it: a process that publishes once and ends."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from datafile_sidecar.cli.simulator import Simulator
from tests import datafiles
from tests.running import RunningSidecar

KEY = "KEY1"


async def fetch(directory: Path, template: str, *options: str, **settings: object) -> tuple[int, str, str]:
    """Run it; its exit status, and what it printed to the user and to the log."""
    told = {"sdk_keys": KEY, "dir": directory, "url_template": template, **settings}
    environment = {f"DATAFILE_{name.upper()}": str(value) for name, value in told.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "datafile_sidecar", "fetch", *options),
        env=environment | {"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(20):
            printed, logged = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, printed.decode(), logged.decode()


async def test_publishes_and_ends(tmp_path: Path) -> None:
    """An app that starts after it finds a datafile with its status, for each key."""
    bodies = {KEY: datafiles.minimal(43), "KEY2": datafiles.minimal(7, "KEY2")}
    async with Simulator(bodies, secret=None) as optimizely:
        status, printed, _ = await fetch(tmp_path, optimizely.template, sdk_keys="KEY1,KEY2")
    assert (status, len(printed.splitlines())) == (0, 2)
    assert "KEY1: revision 43 is on the volume" in printed
    for key, body in bodies.items():
        assert (tmp_path / f"{key}.json").read_bytes() == body
        assert json.loads((tmp_path / f"{key}.status.json").read_text())["trigger"] == "startup"
    assert not list(tmp_path.glob(".*"))


async def test_confirms_what_is_there(tmp_path: Path) -> None:
    """As a cron job it leaves a datafile that is still the newest untouched, and notes that it looked."""
    (tmp_path / "KEY1.json").write_bytes(datafiles.minimal(43))
    before = (tmp_path / "KEY1.json").stat().st_mtime_ns
    async with Simulator({KEY: datafiles.minimal(43)}, secret=None) as optimizely:
        status, _, _ = await fetch(tmp_path, optimizely.template)
    assert (status, (tmp_path / "KEY1.json").stat().st_mtime_ns) == (0, before)
    assert json.loads((tmp_path / "KEY1.status.json").read_text())["checked"]


async def test_tries_again(tmp_path: Path) -> None:
    """A CDN that stumbles costs a moment, not the start of the pod."""
    wrong = [web.Response(status=500), web.Response(text="<html>")]

    async def stumble(_: web.Request) -> web.StreamResponse | None:
        return wrong.pop() if wrong else None

    async with Simulator({KEY: datafiles.minimal(43)}, secret=None) as optimizely:
        optimizely.answer = stumble
        status, _, logged = await fetch(tmp_path, optimizely.template)
    assert (status, logged.count('"fetch.failed"')) == (0, 2)


async def test_gives_up(tmp_path: Path) -> None:
    """At the end of the time it says why, what is on the volume instead, and fails, so that somebody notices."""
    (tmp_path / "KEY1.json").write_bytes(datafiles.minimal(42))
    status, printed, _ = await fetch(tmp_path, "http://127.0.0.1:9/{sdk_key}.json", "--timeout", "1")
    assert status == 1
    assert printed.startswith(
        "KEY1: revision 42 is on the volume; http://127.0.0.1:9/KEY1.json: can't connect (Connection refused)"
    )
    assert (tmp_path / "KEY1.json").read_bytes() == datafiles.minimal(42)


async def test_yesterdays_check(tmp_path: Path) -> None:
    """That upstream once confirmed what is there does not stand for today."""
    async with Simulator({KEY: datafiles.minimal(43)}, secret=None) as optimizely:
        assert (await fetch(tmp_path, optimizely.template))[0] == 0
    status, printed, _ = await fetch(tmp_path, "http://127.0.0.1:9/{sdk_key}.json", "--timeout", "0.5")
    assert (status, "can't connect" in printed) == (1, True)


async def test_refused(tmp_path: Path) -> None:
    """Who is refused learns it at once, for waiting would change nothing."""

    async def refuse(_: web.Request) -> web.StreamResponse | None:
        return web.Response(status=403)

    async with Simulator({KEY: datafiles.minimal(43)}, secret=None) as optimizely:
        optimizely.answer = refuse
        async with asyncio.timeout(10):
            status, printed, _ = await fetch(tmp_path, optimizely.template, "--timeout", "30")
        assert (status, len(optimizely.requests)) == (1, 1)
    assert "answered 403; look at the SDK key" in printed


@pytest.mark.parametrize("kept", [True, False])
async def test_stale_is_allowed(tmp_path: Path, kept: bool) -> None:
    """With --allow-stale a pod starts in an outage from what is kept on the volume, or from the bootstrap file."""
    volume, bootstrap = tmp_path / "volume", tmp_path / "bootstrap"
    for directory, revision in ((volume, 42), (bootstrap, 5)):
        directory.mkdir()
        if kept or directory is bootstrap:
            (directory / "KEY1.json").write_bytes(datafiles.minimal(revision))
    status, printed, _ = await fetch(
        volume,
        "http://127.0.0.1:9/{sdk_key}.json",
        *("--allow-stale", "--timeout", "1"),
        bootstrap_dir=bootstrap,
        bootstrap_after_s=0,
    )
    assert (status, f"revision {42 if kept else 5} is on the volume" in printed) == (0, True)


async def test_nothing_stale(tmp_path: Path) -> None:
    """Not even --allow-stale lets a pod start with nothing."""
    status, printed, _ = await fetch(tmp_path, "http://127.0.0.1:9/{sdk_key}.json", "--allow-stale", "--timeout", "1")
    assert (status, "no datafile is on the volume" in printed) == (1, True)


async def test_beside_a_sidecar(tmp_path: Path) -> None:
    """It does not write into a directory that a sidecar holds."""
    settings: dict[str, Any] = {"sdk_keys": KEY, "url_template": "http://127.0.0.1:9/{sdk_key}.json"}
    async with RunningSidecar(tmp_path, ready=False, **settings):
        status, _, logged = await fetch(tmp_path, settings["url_template"])
    assert (status, "another sidecar publishes into" in logged, "Traceback" in logged) == (1, True, False)
