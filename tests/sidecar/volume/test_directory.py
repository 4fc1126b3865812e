"""The shared directory on a real file system: what readers see, and what the writer survives."""

import contextlib
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core.times import rfc3339
from datafile_sidecar.volume.directory import Volume, VolumeBusyError, VolumeError
from datafile_sidecar.volume.status_file import Status
from tests.descriptors import open_below

OURS = hashlib.sha256(b"ours").hexdigest()
KEY = "KEY1"
MAX = 1000


def status(revision: int = 1, **fields: object) -> Status:
    known = {"sha256": "ab" * 32, "size": 3, "trigger": "webhook", "generation": 0, "published": 1_700_000_000.25}
    return msgspec.convert({"sdk_key": KEY, "revision": revision} | known | fields, Status)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "volume"
    path.mkdir()
    return path


@pytest.fixture
def volume(directory: Path) -> Iterator[Volume]:
    held = Volume(directory)
    yield held
    held.close()


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


class TestPublish:
    def test_bytes_and_mode(self, volume: Volume, directory: Path) -> None:
        """An app of any user reads the exact bytes, also under a strict umask and after the second publish."""
        before = os.umask(0o077)
        mode = directory.stat().st_mode
        try:
            for body in (b"first", b"\x00\xff second"):
                volume.publish(body, status())
                assert (directory / "KEY1.json").read_bytes() == body
                for name in ("KEY1.json", "KEY1.status.json"):
                    assert stat.S_IMODE((directory / name).stat().st_mode) == 0o644
        finally:
            os.umask(before)
        assert directory.stat().st_mode == mode
        assert names(directory) == ["KEY1.json", "KEY1.status.json"]

    def test_status_file(self, volume: Volume, directory: Path) -> None:
        """The status file says what the contract promises: schema, digest, size, way and times in RFC 3339 UTC."""
        volume.publish(b"abc", status(43, generation=2, webhook=1_700_000_000.0005))
        assert json.loads((directory / "KEY1.status.json").read_bytes()) == {
            "schema": 1,
            "sdk_key": KEY,
            "revision": 43,
            "sha256": "ab" * 32,
            "size": 3,
            "trigger": "webhook",
            "generation": 2,
            "webhook": "2023-11-14T22:13:20.000Z",
            "fetched": None,
            "published": "2023-11-14T22:13:20.250Z",
            "checked": None,
            "rolled_back_from": [],
        }

    def test_what_was_replaced(self, volume: Volume, directory: Path) -> None:
        """Who publishes can read what was there before and what is there now, also later, when both have been replaced."""
        assert volume.publish(b"first", status()) is None
        replaced = volume.publish(b"second", status())
        volume.publish(b"third", status())
        assert replaced is not None
        assert (replaced.before.read(), replaced.after.read()) == (b"first", b"second")

    def test_what_is_in_the_way(self, volume: Volume, directory: Path) -> None:
        """A link or a pipe in place of the old file is not followed and not waited for."""
        volume.publish(b"second", status())
        (directory / "KEY1.json").unlink()
        (directory / "elsewhere").write_bytes(b"secret")
        (directory / "KEY1.json").symlink_to(directory / "elsewhere")
        assert volume.publish(b"third", status()) is None
        (directory / "KEY1.json").unlink()
        os.mkfifo(directory / "KEY1.json")
        assert volume.publish(b"fourth", status()) is None
        replaced = volume.publish(b"fifth", status())
        assert replaced is not None
        assert replaced.before.read() == b"fourth"

    def test_order(self, volume: Volume, directory: Path) -> None:
        """Whoever reads the datafile and then its status never finds an older status, however fast both change."""
        volume.publish(b"0", status(0))
        stop, seen, wrong = threading.Event(), set(), []

        def read() -> None:
            while not stop.is_set():
                revision = int((directory / "KEY1.json").read_bytes())
                beside = Status.decode((directory / "KEY1.status.json").read_bytes())
                seen.add(revision)
                if beside is None or beside.revision < revision:
                    wrong.append((revision, beside))

        reader = threading.Thread(target=read)
        reader.start()
        for revision in range(1, 200):
            volume.publish(str(revision).encode(), status(revision))
        stop.set()
        reader.join()
        assert len(seen) > 10
        assert not wrong

    def test_whole(self, volume: Volume, directory: Path) -> None:
        """A reader that never stops sees whole files only, and always one (trap 36)."""
        bodies = [bytes([digit]) * 300_000 for digit in b"0123456789"]
        volume.publish(bodies[0], status())
        stop, torn = threading.Event(), []

        def read() -> None:
            while not stop.is_set():
                body = (directory / "KEY1.json").read_bytes()
                if body not in bodies:
                    torn.append(len(body))

        reader = threading.Thread(target=read)
        reader.start()
        for turn in range(60):
            volume.publish(bodies[turn % 10], status())
        stop.set()
        reader.join()
        assert not torn

    def test_foreign_files(self, volume: Volume, directory: Path) -> None:
        """What others keep in the directory stays as it is, another key's datafile too."""
        for name in ("KEY2.json", "notes.txt", ".hidden", ".datafile-sidecar.x", "KEY1.json.bak"):
            (directory / name).write_bytes(b"theirs")
        volume.publish(b"ours", status())
        assert volume.clean() == []
        assert len(names(directory)) == 7
        assert (directory / "KEY2.json").read_bytes() == b"theirs"

    def test_leftovers(self, volume: Volume, directory: Path) -> None:
        """What a killed sidecar left half-written is gone after the next start, also of a key that is configured no more."""
        left = [".datafile-sidecar.KEY1.json.tmp", ".datafile-sidecar.OLD.status.json.tmp"]
        for name in left:
            (directory / name).write_bytes(b"half")
        assert sorted(volume.clean()) == left
        assert names(directory) == []

    def test_leftover_in_the_way(self, volume: Volume, directory: Path) -> None:
        """A leftover does not keep the next datafile from being published."""
        (directory / ".datafile-sidecar.KEY1.json.tmp").write_bytes(b"half")
        volume.publish(b"whole", status())
        assert names(directory) == ["KEY1.json", "KEY1.status.json"]

    def test_symlink_in_the_way(self, volume: Volume, directory: Path, tmp_path: Path) -> None:
        """A link under our temporary name or the datafile's own name can't make us write elsewhere."""
        victim = tmp_path / "victim"
        victim.write_bytes(b"precious")
        for name in (
            ".datafile-sidecar.KEY1.json.tmp",
            ".datafile-sidecar.KEY1.status.json.tmp",
            "KEY1.json",
            "KEY1.status.json",
        ):
            (directory / name).symlink_to(victim)
        volume.publish(b"ours", status())
        assert victim.read_bytes() == b"precious"
        assert (directory / "KEY1.json").read_bytes() == b"ours"
        assert not (directory / "KEY1.json").is_symlink()

    @pytest.mark.parametrize("name", ["KEY1.json", "KEY1.status.json", ".datafile-sidecar.KEY1.json.tmp"])
    def test_directory_in_the_way(self, volume: Volume, directory: Path, name: str) -> None:
        """A directory under one of our names is told in words; it heals as soon as somebody removes it, and nothing is left."""
        (directory / name).mkdir()
        with pytest.raises(VolumeError, match=r"KEY1.json can't be written: Is a directory"):
            volume.publish(b"ours", status())
        assert names(directory) in ([name], ["KEY1.json", "KEY1.status.json"])
        (directory / name).rmdir()
        volume.publish(b"ours", status())
        assert names(directory) == ["KEY1.json", "KEY1.status.json"]

    def test_directory_gone(self, volume: Volume, directory: Path) -> None:
        """A directory that somebody removed is told in words, and publishing goes on when it is back."""
        directory.rmdir()
        with pytest.raises(VolumeError, match="No such file or directory"):
            volume.publish(b"ours", status())
        directory.mkdir()
        volume.publish(b"ours", status())
        assert (directory / "KEY1.json").read_bytes() == b"ours"

    def test_refresh(self, volume: Volume, directory: Path) -> None:
        """A check that found nothing new touches the status file alone, so that no app rebuilds for nothing."""
        volume.publish(b"ours", status())
        inode = (directory / "KEY1.json").stat().st_ino
        volume.refresh(status(checked=1_700_000_001.0))
        kept = volume.load(KEY, MAX)
        assert kept.body
        assert kept.status
        assert (kept.body, kept.status.checked) == (b"ours", 1_700_000_001.0)
        assert (directory / "KEY1.json").stat().st_ino == inode
        assert volume.is_intact(KEY, OURS, MAX)


SHORT_OF_SPACE = """
import resource, sys
from pathlib import Path
from datafile_sidecar.volume.directory import Volume, VolumeError
from datafile_sidecar.volume.status_file import Status
volume = Volume(Path(sys.argv[1]))
status = Status(sdk_key="KEY1", revision=1, sha256="x", size=1, trigger="webhook", generation=0)
volume.publish(b"old" * 100, status)
before = resource.getrlimit(resource.RLIMIT_FSIZE)
for limit, body in ((5000, b"new" * 100_000), (100, b"new")):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        volume.publish(body, status)
    except VolumeError as problem:
        print(problem)
    else:
        sys.exit("published, though there was no room")
    assert volume.is_intact("KEY1", "x", 1000)
resource.setrlimit(resource.RLIMIT_FSIZE, before)
assert (Path(sys.argv[1]) / "KEY1.json").read_bytes() == b"old" * 100
print(sorted(path.name for path in Path(sys.argv[1]).iterdir()))
volume.publish(b"new", status)
assert (Path(sys.argv[1]) / "KEY1.json").read_bytes() == b"new"
"""


def test_no_room(directory: Path) -> None:
    """When a write is cut short, of datafile or status, the old file stays whole, no half one is left, and it heals."""
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_SPACE, str(directory)], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    words = f"{directory}/KEY1.json can't be written: File too large"
    assert done.stdout.splitlines() == [words, words, "['KEY1.json', 'KEY1.status.json']"]


class TestHold:
    def test_second_process(self, directory: Path) -> None:
        """A second sidecar on the same directory is told so, and takes it over once the first is gone, even killed."""
        with _holder(directory) as first:
            assert first == "held"
            with _holder(directory) as second:
                assert second == f"another sidecar publishes into {directory}: stop it, or use a directory of its own"
            os.close(os.open(directory, os.O_RDONLY))  # a reader that opens the directory does not free it
            with pytest.raises(VolumeBusyError):
                Volume(directory)
        Volume(directory).close()

    def test_missing_directory(self, tmp_path: Path) -> None:
        """A directory that is not there is made, and it shows that it was, for that may be a mount that was forgotten."""
        volume = Volume(tmp_path / "a" / "b")
        assert volume.created
        volume.close()
        volume = Volume(tmp_path / "a" / "b")
        assert not volume.created
        volume.close()

    @pytest.mark.parametrize("name", ["file", "file/below", "x" * 300, "loop", "dangling"])
    def test_no_directory(self, tmp_path: Path, name: str) -> None:
        """A path that can be no directory is told in words that name the setting."""
        (tmp_path / "file").touch()
        (tmp_path / "loop").symlink_to("loop")
        (tmp_path / "dangling").symlink_to("nowhere")
        with pytest.raises(VolumeError, match=r"can't be opened \(.+\): .*DATAFILE_DIR"):
            Volume(tmp_path / name)


@contextlib.contextmanager
def _holder(directory: Path) -> Iterator[str]:
    """A process that tries to hold the directory until it is killed; its first word."""
    code = (
        "import sys, pathlib; from datafile_sidecar.volume.directory import *\n"
        "try: volume = Volume(pathlib.Path(sys.argv[1]))\n"
        "except VolumeBusyError as problem: sys.exit(print(problem))\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().strip()
        process.kill()


class TestLoad:
    def test_nothing(self, volume: Volume) -> None:
        """An empty volume has nothing, and says so without an error."""
        assert volume.load(KEY, MAX).body is None
        assert not volume.is_intact(KEY, OURS, MAX)

    def test_published(self, volume: Volume) -> None:
        """What was published is found again with its status after a restart, times to the millisecond."""
        told = status(43, webhook=1_700_000_000.123, fetched=None, checked=1e9)
        volume.publish(b"ours", told)
        kept = volume.load(KEY, MAX)
        assert kept.body
        assert (kept.body, kept.status) == (b"ours", told)

    @pytest.mark.parametrize("size", [0, 1, MAX])
    def test_no_status(self, volume: Volume, directory: Path, size: int) -> None:
        """A bare file of any size up to the limit is read as it is, torn or not: to judge it is for others."""
        (directory / "KEY1.json").write_bytes(b"x" * size)
        kept = volume.load(KEY, MAX)
        assert (kept.body, kept.status) == (b"x" * size, None)
        assert volume.is_intact(KEY, OURS, MAX)

    def test_huge(self, volume: Volume, directory: Path) -> None:
        """A file that is too large is refused in words, and not read into memory."""
        with (directory / "KEY1.json").open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(VolumeError, match=r"KEY1.json can't be read: larger than 1000 bytes"):
            volume.load(KEY, MAX)
        (directory / "KEY1.json").write_bytes(b"x" * (MAX + 1))
        with pytest.raises(VolumeError, match="larger than 1000 bytes"):
            volume.load(KEY, MAX)

    def test_odd_kinds(self, volume: Volume, directory: Path) -> None:
        """A pipe, a directory or a device under the datafile's name is refused in words, and keeps nobody waiting."""
        path = directory / "KEY1.json"
        os.mkfifo(path)
        with pytest.raises(VolumeError, match="not a regular file"):
            volume.load(KEY, MAX)
        path.unlink()
        path.mkdir()
        with pytest.raises(VolumeError, match="not a regular file"):
            volume.load(KEY, MAX)
        assert open_below(path) == []
        path.rmdir()
        path.symlink_to("/dev/zero")
        with pytest.raises(VolumeError, match="not a regular file"):
            volume.load(KEY, MAX)
        path.unlink()
        path.symlink_to("nowhere")
        assert volume.load(KEY, MAX).body is None

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
    def test_odd_status(self, volume: Volume, directory: Path, make: object) -> None:
        """Nothing under the status file's name can keep a good datafile from being used."""
        (directory / "KEY1.json").write_bytes(b"ours")
        assert callable(make)
        make(directory / "KEY1.status.json")
        kept = volume.load(KEY, MAX)
        assert kept.body
        assert (kept.body, kept.status) == (b"ours", None)

    def test_replaced(self, volume: Volume, directory: Path) -> None:
        """A published file that somebody removed, replaced or wrote into is noticed."""
        path = directory / "KEY1.json"
        for change in (path.unlink, lambda: path.write_bytes(b"theirs!"), lambda: path.write_bytes(b"")):
            volume.publish(b"ours", status())
            assert volume.is_intact(KEY, OURS, MAX)
            change()
            assert not volume.is_intact(KEY, OURS, MAX)

    def test_touched(self, volume: Volume, directory: Path) -> None:
        """A published file that somebody only touched, or wrote again as it was, is still the published one."""
        path = directory / "KEY1.json"
        for touch in (lambda: os.utime(path), lambda: path.write_bytes(b"ours"), lambda: _replace(path)):
            volume.publish(b"ours", status())
            touch()
            assert volume.is_intact(KEY, OURS, MAX)


def _replace(path: Path) -> None:
    path.with_name("other").write_bytes(b"ours")
    path.with_name("other").rename(path)


GOOD = {"schema": 1, "sdk_key": KEY, "revision": 43, "sha256": "ab", "size": 3, "trigger": "poll", "generation": 0}


class TestStatus:
    def test_unknown_fields(self) -> None:
        """A status file of a later sidecar with more fields is understood, as the contract promises."""
        found = Status.decode(json.dumps(GOOD | {"checked": "2023-11-14T22:13:20+00:00", "more": [1]}).encode())
        assert found
        assert (found.revision, found.checked) == (43, 1_700_000_000.0)

    @pytest.mark.parametrize(
        "fields",
        [
            *({"schema": schema} for schema in (2, "1", None)),
            *({"revision": revision} for revision in ("43", -1, 10**30)),
            *({"generation": generation} for generation in (-1, 2**63, None)),
            *({"trigger": trigger} for trigger in ("\ud800", "x" * 65)),
            *({"sha256": 5}, {"size": 1.5}, {"sdk_key": "\udfff"}),
        ],
    )
    def test_nonsense(self, fields: dict[str, object]) -> None:
        """A status file of another schema, or with values that none of ours has, vouches for nothing."""
        assert Status.decode(json.dumps(GOOD | fields).encode()) is None

    @pytest.mark.parametrize(
        "time", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "0001-01-01T00:00:00", "x", 5, [], ""]
    )
    def test_impossible_times(self, time: object) -> None:
        """A time that no calendar has counts as never, and can't fail the sidecar later."""
        found = Status.decode(json.dumps(GOOD | {"checked": time}).encode())
        assert found
        assert found.checked is None

    @pytest.mark.parametrize(
        "text", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 60_000, b'{"a":' * 10_000, b'{"schema":1e999}']
    )
    def test_garbage(self, text: bytes) -> None:
        """Garbage under the status file's name is as good as none."""
        assert Status.decode(text) is None

    @given(
        st.fixed_dictionaries(
            {},
            optional={
                name: st.none()
                | st.integers()
                | st.text()
                | st.datetimes(timezones=st.timezones()).map(lambda t: t.isoformat())
                for name in (*GOOD, "webhook", "fetched", "published", "checked")
            },
        )
    )
    def test_any(self, fields: dict[str, object]) -> None:
        """Whatever a status file says, what is understood of it can be shown and written again, and means the same."""
        found = Status.decode(json.dumps(GOOD | fields).encode())
        if found is not None:
            again = Status.decode(found.encode())
            assert again
            assert again.encode() == found.encode()

    def test_rfc3339(self) -> None:
        """Times are UTC to the millisecond, with a Z, and null where there was none."""
        assert rfc3339(None) is None
        assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
        assert rfc3339(1_700_000_000.9996) == "2023-11-14T22:13:20.999Z"
