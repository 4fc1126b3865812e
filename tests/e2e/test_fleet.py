"""Every pod, every process, and the proof of it: sidecars as real processes, each with an app that has the real client."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from datafile_sidecar.cli.simulator import Simulator
from tests.datafiles import minimal
from tests.running import RunningSidecar
from tests.stopwatch import Stopwatch

KEY, SECRET = "KEY1", "test-secret-1"
HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
APP = (
    "import time; from datafile_client import OptimizelyWatcher; w = OptimizelyWatcher(); w.start(30); time.sleep(600)"
)


@dataclass
class Pod:
    """One pod: its sidecar on an address of its own, and one process of the app."""

    host: str
    sidecar: RunningSidecar
    app: asyncio.subprocess.Process


class Fleet:
    """Three pods, that know each other by these names, or by their addresses, and Optimizely, that calls the first of them."""

    def __init__(self, directory: Path, *dead_peers: str, names: tuple[str, ...] = HOSTS) -> None:
        self.directory = directory
        self.webhook_port, self.admin_port = _free_ports()
        self.peers = ",".join((*(f"{name}:{self.webhook_port}" for name in names), *dead_peers))
        self.optimizely = Simulator({KEY: minimal(1)}, secret=SECRET.encode())
        self.pods: list[Pod] = []
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> "Fleet":
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.optimizely)
            for host in HOSTS:
                sidecar = await stack.enter_async_context(self.sidecar(host))
                self.pods.append(Pod(host, sidecar, await stack.enter_async_context(_app(sidecar.directory))))
            for pod in self.pods:
                await _has_worker(pod.sidecar)
            self.optimizely.webhook_urls = [self.pods[0].sidecar.webhook_url]
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    def sidecar(self, host: str) -> RunningSidecar:
        settings: dict[str, Any] = {
            "sdk_keys": KEY,
            "webhook_secrets": SECRET,
            "poll_interval_s": 0,
            "url_template": self.optimizely.template,
            "webhook_listen": f"{host}:{self.webhook_port}",
            "admin_listen": f"{host}:{self.admin_port}",
            "peers": self.peers,
        }
        sidecar = RunningSidecar(self.directory / host, **settings)
        sidecar.environment["HOSTNAME"] = f"pod-{host}"
        return sidecar

    async def have(self, revision: int) -> list[float]:
        """Wait until every pod has published it and every app decides by it; how long the log says that each publication took."""
        for pod in self.pods:
            await pod.sidecar.logged("datafile.applied", revision=revision)
        return [
            (await pod.sidecar.logged("datafile.published", revision=revision))["propagation_s"] for pod in self.pods
        ]

    async def relays(self, pod: int, at_least: int = 0) -> dict[str, int]:
        """How a pod's relays went, once so many are counted: those to peers that hang take their time."""
        async with asyncio.timeout(10):
            while True:
                metrics = await self.pods[pod].sidecar.metrics()
                counts = {name.split('"')[1]: int(n) for name, n in metrics.items() if "_relays_total{" in name and n}
                if sum(counts.values()) >= at_least:
                    return counts
                await asyncio.sleep(0.05)

    def settling(self) -> int:
        """How many sidecars have started within the last 10 s, in which they wait for workers: all, on a machine that is quick."""
        started = [line["time"] for pod in self.pods for line in pod.sidecar.logs if line["event"] == "sidecar.started"]
        now = datetime.now(UTC)
        return sum(now - datetime.fromisoformat(moment) < timedelta(seconds=10) for moment in started)

    async def status(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """`datafile-sidecar status` as one types it in the first pod's sidecar: its exit status and what it prints."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "datafile_sidecar", "status", *arguments),
            env=self.pods[0].sidecar.environment | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    async def lagging(self, *arguments: str, **environment: str) -> list[str]:
        """Who `--wait-for-revision` names; nobody exactly when its exit status is 0."""
        status, output = await self.status("--wait-for-revision", *arguments, **environment)
        _, _, named = output.partition("not confirmed at")
        sentences = [line.strip() for line in named.splitlines()[1:]]
        assert status == int(bool(sentences)), output
        return sentences


def _free_ports() -> tuple[int, int]:
    """Two ports that are free at every host."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server((HOSTS[0], 0))) for _ in range(2)]
        webhook, admin = (listener.getsockname()[1] for listener in listeners)
    return webhook, admin


async def _has_worker(sidecar: RunningSidecar) -> None:
    async with asyncio.timeout(20):
        while not (await sidecar.status())["keys"][KEY]["workers"]:
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def _app(directory: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {"DATAFILE_DIR": str(directory), "DATAFILE_SDK_KEYS": KEY}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", APP, env=environment)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_one_webhook_reaches_every_process(tmp_path: Path) -> None:
    """One webhook at one pod is decided by in all of them, though two peers are dead and one name leads nowhere."""
    with socket.create_server(("127.0.0.9", 0)) as hanging:
        dead = f"127.0.0.9:{hanging.getsockname()[1]}", "127.0.0.8:1", "nowhere..peers:1"
        async with Fleet(tmp_path, *dead) as fleet:
            for revision in range(2, 12):
                stopwatch = Stopwatch(*(pod.sidecar.pid for pod in fleet.pods), *(pod.app.pid for pod in fleet.pods))
                assert await fleet.optimizely.publish(KEY, minimal(revision)) == 202
                took_s = max(await fleet.have(revision))
                assert took_s - stopwatch.held_up_s() < 1
                assert stopwatch.seconds() < 2
            for pod, way in zip(fleet.pods, ("webhook", "peer", "peer"), strict=True):
                status = (await pod.sidecar.status())["keys"][KEY]
                assert (status["revision"], status["trigger"]) == (11, way)
                assert [worker["revision"] for worker in status["workers"]] == [11]
                applied = (await pod.sidecar.metrics())[f'datafile_sidecar_apply_seconds_count{{sdk_key="{KEY}"}}']
                assert applied == 10
            assert await fleet.relays(0, at_least=50) == {
                "delivered": 20,
                "timeout": 10,
                "unreachable": 10,
                "unresolved": 10,
            }
            assert await fleet.relays(1) == await fleet.relays(2) == {}


async def test_the_proof(tmp_path: Path) -> None:
    """`status --wait-for-revision` gives 0 only when every process of every pod decides by it, and names each that does not."""
    async with Fleet(tmp_path) as fleet:
        await fleet.optimizely.publish(KEY, minimal(2))
        await fleet.have(2)
        lagging = await fleet.lagging("latest", "--timeout", "0")
        assert fleet.settling() <= len(lagging) <= 3, "sidecars that have just started vouch for nobody"
        assert await fleet.lagging("latest", "--timeout", "15", "--expect", "3") == []
        (sentence,) = await fleet.lagging("2", "--timeout", "0", "--expect", "4")
        assert sentence == "fleet: sidecars that answered: 3, expected: 4"

        first, second, third = fleet.pods
        second.app.send_signal(signal.SIGSTOP)
        await fleet.optimizely.publish(KEY, minimal(3))
        await third.sidecar.logged("datafile.applied", revision=3)
        (sentence,) = await fleet.lagging("3", "--timeout", "1")
        assert sentence.startswith("pod-127.0.0.3 (127.0.0.3:")
        assert f"(pid {second.app.pid} on " in sentence
        assert sentence.endswith("uses revision 2")
        second.app.send_signal(signal.SIGCONT)
        assert await fleet.lagging("3", "--timeout", "10") == []

        third.app.kill()
        await third.app.wait()
        assert await fleet.lagging("3", "--timeout", "0") == [
            f"pod-127.0.0.4 (127.0.0.4:{fleet.admin_port}): no worker is connected"
        ]
        assert await fleet.lagging("3", "--timeout", "0", "--allow-no-workers") == []
        peers = fleet.peers + ",nowhere..peers:1"
        (sentence,) = await fleet.lagging("3", "--timeout", "0", "--allow-no-workers", DATAFILE_PEERS=peers)
        assert sentence.startswith("nowhere..peers: the name does not resolve")

        await second.sidecar.kill()
        (sentence,) = await fleet.lagging("3", "--timeout", "0", "--allow-no-workers")
        assert sentence.startswith(f"127.0.0.3:{fleet.admin_port}: unreachable")
        assert sentence.endswith("refuses connections: ended, or starting again?")
        status, table = await fleet.status()
        assert (status, "pod-127.0.0.2" in table, f"127.0.0.3:{fleet.admin_port}" in table) == (1, True, True)
        async with fleet.sidecar(second.host):
            lagging = await fleet.lagging("3", "--timeout", "5", "--allow-no-workers")
            assert lagging == [], "all its workers held a lock, so there is no need to wait"
            second.app.send_signal(signal.SIGSTOP)
        async with fleet.sidecar(second.host):
            silent = f"worker (\\w{{8}}) \\(pid {second.app.pid}\\) lives and does not report"
            (sentence,) = await fleet.lagging("3", "--timeout", "11", "--allow-no-workers")
            assert re.search(silent, sentence), "a stopped worker is named for as long as it is stopped"
            second.app.kill()
            await second.app.wait()
            assert await fleet.lagging("3", "--timeout", "1", "--allow-no-workers") == []
        assert first.app.returncode is None


async def test_unheard_workers(tmp_path: Path) -> None:
    """Where workers can't connect, `--allow-no-workers` is no yes: there may be workers that use an older revision."""
    (tmp_path / "sidecar.sock").mkdir()
    async with Simulator({KEY: minimal(44)}, secret=SECRET.encode()) as optimizely:
        async with RunningSidecar(tmp_path, sdk_keys=KEY, url_template=optimizely.template) as sidecar:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "datafile_sidecar", "status", "--url", sidecar.admin_url, "--timeout", "0"),
                *("--wait-for-revision", "44", "--allow-no-workers"),
                env=sidecar.environment,
                stdout=asyncio.subprocess.PIPE,
            )
            output, _ = await process.communicate()
    assert process.returncode == 1
    assert b"workers can't connect" in output


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives the sidecars a file of host names of their own")
async def test_a_headless_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods that one name stands for are told and asked; one that joins is told of the next webhook, one that leaves is let go."""
    hosts, python = tmp_path / "hosts", tmp_path / "python"
    hosts.write_text("".join(f"{host} checkout-peers\n" for host in HOSTS[:2]))
    inside = f'mount --bind {hosts} /etc/hosts && exec {sys.executable} "$@"'
    python.write_text(f"#!/bin/sh\nexec unshare -m sh -c '{inside}' sh \"$@\"\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(RunningSidecar, "command", (str(python), *RunningSidecar.command[1:]))
    async with Fleet(tmp_path, names=("checkout-peers",)) as fleet:
        third = fleet.pods.pop()
        await fleet.optimizely.publish(KEY, minimal(2))
        await fleet.have(2)
        assert (await third.sidecar.status())["keys"][KEY]["revision"] == 1
        lagging = {sentence.split()[0] for sentence in await fleet.lagging("2", "--timeout", "0")}
        assert lagging <= {"pod-127.0.0.2", "pod-127.0.0.3"}
        assert fleet.settling() <= len(lagging)
        hosts.write_text("".join(f"{host} checkout-peers\n" for host in HOSTS[1:]))
        await fleet.optimizely.publish(KEY, minimal(3))
        await third.sidecar.logged("datafile.applied", revision=3)
        assert await fleet.lagging("3", "--timeout", "15") == []
        fleet.pods.append(third)
        await fleet.have(3)


@pytest.mark.system
@pytest.mark.timeout(180)
async def test_a_process_that_is_stopped_for_a_minute(tmp_path: Path) -> None:
    """However long a process hangs, it stays named; once it goes on, the command ends well, also after its sidecar's restart."""
    async with Fleet(tmp_path) as fleet:
        await fleet.optimizely.publish(KEY, minimal(2))
        await fleet.have(2)
        second = fleet.pods[1]
        second.app.send_signal(signal.SIGSTOP)
        await fleet.optimizely.publish(KEY, minimal(3))
        for timeout_s in ("0", "12", "45"):
            (sentence,) = [one for one in await fleet.lagging("3", "--timeout", timeout_s) if "uses revision" in one]
            assert f"(pid {second.app.pid} on " in sentence
        waiting = asyncio.create_task(fleet.lagging("3", "--timeout", "30"))
        await asyncio.sleep(1)
        second.app.send_signal(signal.SIGCONT)
        assert await waiting == []
        await second.sidecar.kill()
        async with fleet.sidecar(second.host):
            assert await fleet.lagging("3", "--timeout", "8") == [], "a sidecar that waits needs 10 s"
