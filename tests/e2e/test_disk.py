"""A full disk, a disk that turned read-only, and a death at every system call of a publish. Needs root and strace."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from datafile_sidecar.cli.simulator import Simulator
from datafile_sidecar.core import datafile
from datafile_sidecar.volume.directory import Volume
from tests.datafiles import realistic
from tests.running import RunningSidecar

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root"),
    pytest.mark.skipif(not shutil.which("strace"), reason="needs strace: apt-get install strace"),
]
KEY = "KEY1"
SETTINGS: dict[str, Any] = {"sdk_keys": KEY, "webhook_secrets": "s", "poll_interval_s": 3600}


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    volume = tmp_path / "volume"
    volume.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0755", "tmpfs", volume], check=True)
    yield volume
    subprocess.run(["umount", "--lazy", volume], check=True)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator({KEY: realistic(200, 42)}, secret=b"s") as simulator:
        yield simulator


async def until(volume: Path, revision: int) -> None:
    """Wait until a reader sees this revision."""
    async with asyncio.timeout(30):
        while datafile.parse((volume / f"{KEY}.json").read_bytes(), KEY).revision != revision:
            await asyncio.sleep(0.01)


async def test_a_full_volume_keeps_the_old_file_and_heals_itself(tmpfs: Path, simulator: Simulator) -> None:
    """ENOSPC: no half file, with its cause, and once there is room the update arrives without help."""
    settings: dict[str, Any] = {
        "sdk_keys": KEY,
        "url_template": simulator.template,
        "webhook_secrets": "s",
        "poll_interval_s": 3600,
    }
    async with RunningSidecar(tmpfs, **settings) as sidecar:
        simulator.webhook_urls = [sidecar.webhook_url]
        before = (tmpfs / f"{KEY}.json").read_bytes()
        ballast = tmpfs / "ballast"
        ballast.write_bytes(bytes(750 * 1024))
        assert await simulator.publish(KEY, realistic(400, 43)) == 202
        line = await sidecar.logged("publish.failed")
        assert "No space left" in line["reason"]
        assert (tmpfs / f"{KEY}.json").read_bytes() == before
        assert not list(tmpfs.glob(".*"))
        status = await sidecar.status()
        assert status["ready"]
        assert status["keys"][KEY]["revision"] == 42
        assert status["keys"][KEY]["target_revision"] == 43
        assert "No space left" in status["keys"][KEY]["last_error"]
        ballast.unlink()
        await until(tmpfs, 43)


async def test_a_volume_that_turned_read_only_heals_itself(tmpfs: Path, simulator: Simulator) -> None:
    """EROFS: the old file stays readable, and the update arrives when the mount is mended."""
    settings: dict[str, Any] = {
        "sdk_keys": KEY,
        "url_template": simulator.template,
        "webhook_secrets": "s",
        "poll_interval_s": 3600,
    }
    async with RunningSidecar(tmpfs, **settings) as sidecar:
        simulator.webhook_urls = [sidecar.webhook_url]
        subprocess.run(["mount", "-o", "remount,ro", tmpfs], check=True)
        assert await simulator.publish(KEY, realistic(200, 43)) == 202
        assert "Read-only" in (await sidecar.logged("publish.failed"))["reason"]
        assert (await sidecar.status())["ready"]
        await until(tmpfs, 42)
        subprocess.run(["mount", "-o", "remount,rw", tmpfs], check=True)
        await until(tmpfs, 43)


PUBLISH = textwrap.dedent("""
    import sys
    from pathlib import Path
    from datafile_sidecar.core import datafile
    from datafile_sidecar.volume.directory import Volume, VolumeError
    from datafile_sidecar.volume.status_file import Status

    directory, body = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
    parsed = datafile.parse(body, "KEY1")
    status = Status(sdk_key="KEY1", revision=parsed.revision, sha256=parsed.sha256, size=parsed.size,
                    trigger="poll", generation=0, published=1.0)
    volume = Volume(directory)
    try:
        volume.publish(body, status)
    except VolumeError as error:
        print(error)
        sys.exit(1)
""")
CALLS = (
    "openat",
    "open",
    "write",
    "fchmod",
    "fsync",
    "close",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "newfstatat",
)


class Scene:
    """A volume that holds revision 1, and a process that publishes revision 2, watched by strace."""

    def __init__(self, tmp_path: Path) -> None:
        self.volume, self.bodies = tmp_path / "volume", {n: realistic(100, n) for n in (1, 2)}
        self.volume.mkdir()
        self.new = tmp_path / "new.json"
        self.new.write_bytes(self.bodies[2])
        self.file = self.volume / f"{KEY}.json"

    def publish(self, *inject: str) -> subprocess.CompletedProcess[str]:
        """Put revision 1 in place, and publish revision 2 with a fault in its way."""
        self.file.write_bytes(self.bodies[1])
        names = [f"{KEY}.json", f"{KEY}.status.json"]
        paths = [self.volume, *(self.volume / name for name in names)]
        paths += [self.volume / f".datafile-sidecar.{name}.tmp" for name in names]
        watched = [option for path in paths for option in ("-P", str(path))]
        command = [
            "strace",
            "-f",
            "-qq",
            *watched,
            *inject,
            sys.executable,
            "-c",
            PUBLISH,
            str(self.volume),
            str(self.new),
        ]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)

    def calls(self) -> list[str]:
        """The system calls of an undisturbed publish, in order."""
        traced = self.publish().stderr
        return [name for name in re.findall(r"(?:^|\] )(\w+)\(", traced, re.MULTILINE) if name in CALLS]

    def check(self) -> int:
        """The revision that a reader finds: the old or the new one, whole; and what a restart leaves."""
        published = datafile.parse(self.file.read_bytes(), KEY)
        assert self.file.read_bytes() == self.bodies[published.revision]
        status = json.loads((self.volume / f"{KEY}.status.json").read_text()) if published.revision == 2 else None
        assert status is None or status["sha256"] == published.sha256
        volume = Volume(self.volume)
        volume.clean()
        volume.close()
        assert not [name for name in os.listdir(self.volume) if name.startswith(".")]
        return published.revision


def test_death_at_any_system_call_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    """SIGKILL before each call of a publish in turn: a reader never finds another file, a restart no leftover."""
    scene = Scene(tmp_path)
    calls = scene.calls()
    assert calls.count("rename") + calls.count("renameat") == 2
    assert calls.count("fsync") == 3
    seen = []
    for number, name in enumerate(calls):
        nth = calls[: number + 1].count(name)
        died = scene.publish("-e", f"inject={name}:signal=SIGKILL:when={nth}")
        assert died.returncode != 0, (name, nth)
        seen.append(scene.check())
    assert seen[0] == 1
    assert sorted(seen) == seen
    assert 2 in seen


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_an_error_at_any_system_call_leaves_the_old_or_the_new_file(tmp_path: Path, error: str) -> None:
    """Each call fails in turn: the publish reports it, or succeeds; the file is whole either way."""
    scene = Scene(tmp_path)
    calls = scene.calls()
    for number, name in enumerate(calls):
        if name == "close":
            continue
        nth = calls[: number + 1].count(name)
        done = scene.publish("-e", f"inject={name}:error={error}:when={nth}")
        assert "Traceback" not in done.stderr or name in {"openat", "open"}, done.stderr[-2000:]
        if done.returncode == 0:
            assert scene.check() == 2
        else:
            assert scene.check() in {1, 2}


async def test_a_hung_volume_holds_up_no_webhook(tmp_path: Path, simulator: Simulator) -> None:
    """A mount that hangs (an NFS server that is gone) delays the publication alone: both ports go on answering.

    `bindfs` serves the volume and is stopped: every look at a file hangs in the kernel.
    """
    bindfs = shutil.which("bindfs")
    if bindfs is None:
        pytest.skip("needs bindfs: make system-packages")
    (tmp_path / "kept").mkdir()
    volume = tmp_path / "volume"
    volume.mkdir()
    server = await asyncio.create_subprocess_exec(bindfs, "-f", tmp_path / "kept", volume)
    try:
        while not os.path.ismount(volume):
            await asyncio.sleep(0.01)
        async with RunningSidecar(volume, url_template=simulator.template, **SETTINGS) as sidecar:
            simulator.webhook_urls = [sidecar.webhook_url]
            server.send_signal(signal.SIGSTOP)
            for revision in (43, 44, 45):
                async with asyncio.timeout(5):
                    assert await simulator.publish(KEY, realistic(200, revision)) == 202
                    assert (await sidecar.status())["keys"][KEY]["target_revision"] == revision
                    await asyncio.sleep(2.1)  # longer than the look at the socket's place is apart
            server.send_signal(signal.SIGCONT)
            await until(volume, 45)
            assert await sidecar.stop() == 0
    finally:
        if server.returncode is None:
            server.send_signal(signal.SIGCONT)
        subprocess.run(["umount", "--lazy", volume], check=False)
        await server.wait()
