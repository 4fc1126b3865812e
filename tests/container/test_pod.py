"""The sidecar and an app in one pod, each in its own container, as Kubernetes would run them."""

import asyncio
import os
import signal
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from datafile_sidecar.cli.simulator import Simulator
from tests.container.machine import Machine
from tests.container.pods import KEY, SECRET, UPSTREAM_PORT, WEBHOOK_URL, Pod, age_s, memory_mib, proc_status, wait_for
from tests.container.shop import Visitor, flags
from tests.datafiles import realistic

_SIGTERM_BIT = 1 << 14


@asynccontextmanager
async def _optimizely(datafile: bytes) -> AsyncIterator[Simulator]:
    """The stand-in, in the network of this thread."""
    async with Simulator({KEY: datafile}, listen=("127.0.0.1", UPSTREAM_PORT), secret=SECRET.encode()) as upstream:
        upstream.webhook_urls = [WEBHOOK_URL]
        yield upstream


async def test_a_webhook_changes_what_another_container_decides(machine: Machine, measured: dict[str, str]) -> None:
    """Somebody flips a flag: each worker of the app's container decides by it a moment later, and the sidecar can say so."""
    with Pod(machine, "flip") as pod, pod.network():
        async with _optimizely(flags(1, "Buy now")) as optimizely, Visitor() as visitor:
            pod.sidecar(poll_interval_s=3600)
            pid = pod.pid("sidecar")
            await visitor.ready()
            measured["seconds from the sidecar's first instruction to ready"] = f"{age_s(pid):.2f}"
            pod.app()
            await visitor.sees("Buy now")
            assert await optimizely.publish(KEY, flags(2, "Pay")) == 202
            measured["ms from the webhook's answer to a decision by HTTP"] = f"{1000 * await visitor.sees('Pay'):.0f}"
            await visitor.workers(2)
            measured["resident MiB of the sidecar, small datafile"] = f"{_mib(pod, 'VmRSS'):.1f}"


async def test_containers_meet_only_on_the_volume(machine: Machine) -> None:
    """The app runs as another user without any privilege: it reads the datafile, and can't change or remove it."""
    with Pod(machine, "apart") as pod, pod.network():
        async with _optimizely(flags(1, "Buy now")), Visitor() as visitor:
            pod.sidecar()
            await visitor.ready()
            pod.app()
            await visitor.sees("Buy now")
            sidecar, app = (proc_status(pod.pid(name)) for name in ("sidecar", "app"))
            assert (sidecar["Uid"].split()[0], app["Uid"].split()[0]) == ("65532", "10001")
            for status in (sidecar, app):
                assert (int(status["CapEff"], 16), status["NoNewPrivs"], status["Seccomp"]) == (0, "1", "2")
            file = pod.datafile.stat()
            assert (stat.S_IMODE(file.st_mode), file.st_uid) == (0o644, 65532)
            assert stat.S_IMODE(pod.volume.stat().st_mode) == 0o777
            assert {name for name in os.listdir(pod.volume) if not name.startswith(".")} == {
                *(f"{KEY}.json", f"{KEY}.status.json", "sidecar.sock")
            }
            assert _mount_options(pod.pid("app"), "/var/run/datafile")[0] == "ro"
            assert _mount_options(pod.pid("sidecar"), "/")[0] == "ro"


async def test_a_killed_sidecar_comes_back_to_what_it_left(machine: Machine) -> None:
    """The sidecar is killed while Optimizely is down: the app decides on, and the new sidecar is ready at once by the same file."""
    with Pod(machine, "restart") as pod, pod.network():
        async with Visitor() as visitor:
            async with _optimizely(flags(1, "Buy now")):
                pod.sidecar()
                await visitor.ready()
                pod.app()
                await visitor.sees("Buy now")
            before, app = pod.datafile.stat(), pod.pid("app")
            pod.signal("sidecar", "KILL")
            assert (await visitor.checkout())["text"] == "Buy now"
            wait_for(lambda: pod.state("sidecar")["Status"] == "exited", "podman to notice")
            pod.start("sidecar")
            await visitor.ready()
            assert (pod.datafile.stat().st_ino, pod.datafile.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
            async with _optimizely(flags(2, "Pay")) as optimizely:
                await optimizely.announce(KEY, 2)
                await visitor.sees("Pay")
                await visitor.workers(2)
            assert pod.pid("app") == app


async def test_sigterm_ends_process_1_within_two_seconds(machine: Machine, measured: dict[str, str]) -> None:
    """A pod ends without delay while Optimizely's answer hangs: the sidecar is process 1, takes SIGTERM and leaves with 0."""
    with Pod(machine, "stop") as pod, pod.network():
        async with _optimizely(flags(1, "Buy now")) as optimizely, Visitor() as visitor:
            pod.sidecar()
            await visitor.ready()
            assert proc_status(pod.pid("sidecar"))["NSpid"].split()[-1] == "1"
            hanging = asyncio.Event()

            async def hang(_: web.Request) -> None:
                hanging.set()
                await asyncio.sleep(3600)

            optimizely.answer = hang
            await optimizely.announce(KEY, 2)
            await asyncio.wait_for(hanging.wait(), 5)
            took_s = await asyncio.to_thread(pod.signal, "sidecar", "TERM")
            measured["seconds from SIGTERM to the end, upstream hanging"] = f"{took_s:.2f}"
            assert took_s < 2
            wait_for(lambda: pod.state("sidecar")["Status"] == "exited", "podman to notice")
            assert pod.state("sidecar")["ExitCode"] == 0
            assert [name for name in os.listdir(pod.volume) if name.startswith(".")] == []


def test_sigterm_in_the_first_moment_is_heard(machine: Machine) -> None:
    """A pod that is deleted while it starts does not wait for its grace period: the signal counts before the slow imports."""
    # On a loaded machine the sidecar may have gone on before the signal is sent, and leave with 0.
    statuses = (_status_after_early_sigterm(machine, f"early-{number}") for number in range(3))
    assert 143 in statuses


def _status_after_early_sigterm(machine: Machine, name: str) -> int:
    with Pod(machine, name) as pod:
        pod.sidecar()
        pid = pod.pid("sidecar")
        wait_for(lambda: int(proc_status(pid)["SigCgt"], 16) & _SIGTERM_BIT, "a handler for SIGTERM")
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: pod.state("sidecar")["Status"] == "exited", "the end", within_s=2)
        return int(pod.state("sidecar")["ExitCode"])


async def test_memory_stays_within_64_mib_through_200_updates_of_a_mebibyte(
    machine: Machine, measured: dict[str, str]
) -> None:
    """Large datafiles that change all day kill no sidecar: half of the memory that the manifests give is enough."""
    sized = realistic(1024, 1, KEY)
    with Pod(machine, "memory") as pod, pod.network():
        datafile = sized
        async with _optimizely(sized) as optimizely, Visitor() as visitor:
            pod.sidecar("--memory=64m", "--memory-swap=64m", poll_interval_s=3600)
            await visitor.ready()
            pid = pod.pid("sidecar")
            for revision in range(2, 202):
                datafile = sized.replace(b'"revision":"1"', b'"revision":"%d"' % revision, 1)
                assert await optimizely.publish(KEY, datafile) == 202
                await visitor.revision(revision)
            assert pod.datafile.read_bytes() == datafile
            assert pod.pid("sidecar") == pid
            assert not pod.state("sidecar")["OOMKilled"]
            limit, peak = memory_mib(pid)
            assert limit == 64
            measured["MiB through 200 updates of 1 MiB, most resident and most charged"] = (
                f"{_mib(pod, 'VmHWM'):.1f}, {peak:.1f}"
            )
            assert sum(entry.stat().st_size for entry in os.scandir(pod.volume)) < 3 << 20


async def test_a_full_volume_keeps_the_last_good_datafile(machine: Machine) -> None:
    """The volume is too small for a new datafile: the old one stays, /status says why, and the next one that fits is published."""
    with Pod(machine, "full", volume_mib=2) as pod, pod.network():
        async with _optimizely(realistic(1100, 1, KEY)) as optimizely, Visitor() as visitor:
            pod.sidecar()
            await visitor.ready()
            before = pod.datafile.read_bytes()
            await optimizely.publish(KEY, realistic(1100, 2, KEY))
            async with asyncio.timeout(10):
                while not (error := (await visitor.status())["last_error"]):
                    await asyncio.sleep(0.02)
            assert "No space left" in error
            assert pod.datafile.read_bytes() == before
            assert [await visitor.probe(path) for path in ("/readyz", "/livez")] == [200, 200]
            assert not [name for name in os.listdir(pod.volume) if name.startswith(".")]
            await optimizely.publish(KEY, realistic(10, 3, KEY))
            await visitor.revision(3)
            assert (await visitor.status())["last_error"] is None


@pytest.mark.parametrize("delay_s", [0.1, 0.3, 1.0])
def test_sigterm_at_any_time_of_the_start_ends_it(machine: Machine, delay_s: float) -> None:
    """Whenever in its start a sidecar is told to end, upstream out of reach, it is gone well before its grace period is."""
    with Pod(machine, f"early-{int(delay_s * 1000)}") as pod:
        pod.sidecar()
        time.sleep(delay_s)
        assert pod.signal("sidecar", "TERM") < 5


def _mib(pod: Pod, name: str) -> float:
    return int(proc_status(pod.pid("sidecar"))[name].split()[0]) / 1024


def _mount_options(pid: int, target: str) -> list[str]:
    """Of the mount at, or nearest above, a path in a process's view; symbolic links of the image included."""
    with open(f"/proc/{pid}/mountinfo") as mounts:
        entries = [line.split() for line in mounts]
    real = target.replace("/var/run", "/run")
    return next(fields[5].split(",") for fields in reversed(entries) if fields[4] in {target, real})
