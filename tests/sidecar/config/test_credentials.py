"""Secrets and tokens as they are mounted, changed and broken while the sidecar runs."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datafile_sidecar.config.credentials import CredentialsError, Secrets, Tokens


class MountedSecret:
    """A directory as the kubelet makes it: files are links through `..data`, which is swapped at each update."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._generation = 0
        path.mkdir()

    def write(self, **files: bytes) -> None:
        """What a changed Secret looks like a moment later."""
        self._generation += 1
        generation = self.path / f"..2026_11_25_{self._generation}"
        generation.mkdir()
        for name, content in files.items():
            (generation / name).write_bytes(content)
        old = os.readlink(self.path / "..data") if (self.path / "..data").is_symlink() else None
        (self.path / "..data_tmp").symlink_to(generation.name)
        (self.path / "..data_tmp").rename(self.path / "..data")
        for link in self.path.iterdir():
            if not link.name.startswith(".") and link.name not in files:
                link.unlink()
        for name in files:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        if old:
            for file in (self.path / old).iterdir():
                file.unlink()
            (self.path / old).rmdir()


@pytest.fixture
def mounted(tmp_path: Path) -> MountedSecret:
    return MountedSecret(tmp_path / "secret")


def secrets_of(path: Path, *fixed: bytes, clock: Callable[[], float] = lambda: 0.0) -> Secrets:
    return Secrets(path, fixed, clock)


class TestSecrets:
    def test_rotation(self, mounted: MountedSecret) -> None:
        """While a Secret holds the old and the new webhook secret, both verify; then the new one alone, without a restart."""
        mounted.write(a=b"old")
        secrets = secrets_of(mounted.path)
        assert list(secrets.active) == [b"old"]
        mounted.write(a=b"old", b=b"new")
        assert secrets.reread()
        assert list(secrets.active) == [b"old", b"new"]
        mounted.write(b=b"new")
        assert secrets.reread()
        assert list(secrets.active) == [b"new"]
        assert not secrets.reread()

    def test_same_name(self, mounted: MountedSecret) -> None:
        """A secret that is replaced under its name is revoked at the next look."""
        mounted.write(a=b"leaked")
        secrets = secrets_of(mounted.path, b"fixed")
        mounted.write(a=b"good")
        assert secrets.reread()
        assert secrets.active == (b"fixed", b"good")

    def test_single_file(self, tmp_path: Path) -> None:
        """One file instead of a directory works too, and is read anew in the same way."""
        file = tmp_path / "secret"
        file.write_bytes(b" test-secret-1\r\n")
        secrets = secrets_of(file)
        assert (secrets.active, secrets.untrimmed) == ((b"test-secret-1",), ("secret",))
        file.write_bytes(b"b")
        assert secrets.reread()
        assert (secrets.active, secrets.untrimmed) == ((b"b",), ())

    def test_white_space(self, mounted: MountedSecret) -> None:
        """White space around a secret, from a file or the variable, is cut off, and the place is named for a warning."""
        mounted.write(a=b"test-secret-1\n", b=b"clean", c=b"\t in ner \r\n")
        secrets = secrets_of(mounted.path, b"x\n", b"y")
        assert secrets.active == (b"x", b"y", b"test-secret-1", b"clean", b"in ner")
        assert secrets.untrimmed == ("DATAFILE_WEBHOOK_SECRETS", "a", "c")

    @pytest.mark.parametrize(
        "content",
        [
            b"\xef\xbb\xbfsecret", b"\xef\xbb\xbf secret\r\n", *("\ufeffsecret\r\n".encode(name) for name in (
                "utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"
            )),
        ],
    )  # fmt: skip
    def test_byte_order_mark(self, mounted: MountedSecret, content: bytes) -> None:
        """A secret that a Windows tool wrote is taken as the text that it is, and the file is named for a warning."""
        mounted.write(a=content, b=b"other\n")
        secrets = secrets_of(mounted.path, b"\xef\xbb\xbffixed")
        assert secrets.active == (b"fixed", b"secret", b"other")
        assert (secrets.marked, secrets.untrimmed) == (("DATAFILE_WEBHOOK_SECRETS", "a"), ("b",))
        mounted.write(a=b"secret")
        secrets.reread()
        assert list(secrets.active) == [b"fixed", b"secret"]
        assert list(secrets.marked) == ["DATAFILE_WEBHOOK_SECRETS"]

    def test_byte_order_mark_alone(self, mounted: MountedSecret) -> None:
        """Nothing but a mark is an empty file; bytes that only look like a mark are a secret of these bytes."""
        mounted.write(a=b"\xef\xbb\xbf\r\n", b=b"\xff\xfe\x00", c=b"\xef\xbb\xbf\xff")
        secrets = secrets_of(mounted.path)
        assert secrets.active == (b"\xff\xfe\x00", b"\xef\xbb\xbf\xff")
        assert secrets.empty == ("a",)

    def test_any_bytes(self, mounted: MountedSecret) -> None:
        """A secret of any bytes is kept as it is, and one that is mounted twice counts once."""
        mounted.write(a=b"\xe9\x00\xff", b=b"\xe9\x00\xff")
        assert secrets_of(mounted.path).active == (b"\xe9\x00\xff",)

    def test_empty_file(self, mounted: MountedSecret) -> None:
        """An empty file beside a good one is no secret: it lets nobody in."""
        mounted.write(a=b"", b=b"\n \t", c=b"good")
        assert secrets_of(mounted.path).active == (b"good",)

    @pytest.mark.parametrize("files", [{}, {"a": b""}, {"a": b"\n", "b": b" "}])
    def test_nothing_at_start(self, mounted: MountedSecret, files: dict[str, bytes]) -> None:
        """A place that was named and holds no secret stops the start, and the words name the setting and the place."""
        mounted.write(**files)
        with pytest.raises(
            CredentialsError, match=rf"DATAFILE_WEBHOOK_SECRETS_PATH: {mounted.path} contains no webhook"
        ):
            secrets_of(mounted.path)

    def test_single_empty_file(self, tmp_path: Path) -> None:
        """A secret file of one line feed stops the start too."""
        (tmp_path / "secret").write_bytes(b"\n")
        with pytest.raises(CredentialsError, match="DATAFILE_WEBHOOK_SECRETS_PATH"):
            secrets_of(tmp_path / "secret")

    def test_failed_read(self, mounted: MountedSecret) -> None:
        """A read that fails, or finds nothing, keeps the secrets that were known, and says why."""
        mounted.write(a=b"good")
        secrets = secrets_of(mounted.path)
        for breaking in (
            lambda: mounted.write(a=b""),
            mounted.write,
            lambda: mounted.path.rename(mounted.path.with_name("gone")),
        ):
            breaking()
            with pytest.raises(CredentialsError):
                secrets.reread()
            assert secrets.active == (b"good",)
        mounted.path.with_name("gone").rename(mounted.path)
        mounted.write(a=b"better")
        assert secrets.reread()
        assert secrets.active == (b"better",)

    def test_torn_update(self, mounted: MountedSecret) -> None:
        """A file that vanishes between listing and reading (a swap in its middle) keeps the whole old set, not half of it."""
        mounted.write(a=b"one", b=b"two")
        secrets = secrets_of(mounted.path)
        (mounted.path / "c").symlink_to("..data/gone")
        with pytest.raises(CredentialsError, match=r"/c can't be read: No such file"):
            secrets.reread()
        assert secrets.active == (b"one", b"two")

    @pytest.mark.parametrize("is_start", [True, False])
    def test_swap(self, mounted: MountedSecret, monkeypatch: pytest.MonkeyPatch, is_start: bool) -> None:
        """A Secret that is replaced between listing and reading is read again: no restart, and the new set."""
        mounted.write(old=b"one")
        secrets = None if is_start else secrets_of(mounted.path)
        listdir = os.listdir

        def swap(path: Path) -> list[str]:
            monkeypatch.undo()
            names = listdir(path)
            mounted.write(new=b"two")
            return names

        monkeypatch.setattr(os, "listdir", swap)
        if secrets is None:
            secrets = secrets_of(mounted.path)
        else:
            assert secrets.reread()
        assert secrets.active == (b"two",)

    def test_directory_inside(self, mounted: MountedSecret) -> None:
        """A directory among the files, and what starts with a dot, are passed over."""
        mounted.write(a=b"good")
        (mounted.path / "sub").mkdir()
        (mounted.path / ".hidden").write_bytes(b"hidden")
        assert secrets_of(mounted.path).active == (b"good",)

    def test_huge_file(self, tmp_path: Path) -> None:
        """A file that can be no secret (a wrong path, a device) is refused in words, not read into memory."""
        with (tmp_path / "huge").open("wb") as file:
            file.truncate(1 << 40)
        for path in (tmp_path, tmp_path / "huge", Path("/dev/zero")):
            with pytest.raises(CredentialsError, match="larger than 65536 bytes"):
                secrets_of(path)

    def test_pipe(self, mounted: MountedSecret) -> None:
        """A pipe that nobody writes into holds up neither the start nor the running sidecar."""
        mounted.write(a=b"good")
        os.mkfifo(mounted.path / "pipe")
        assert secrets_of(mounted.path).active == (b"good",)
        with pytest.raises(CredentialsError):
            secrets_of(mounted.path / "pipe")

    @pytest.mark.parametrize("name", ["missing", "x" * 300, "file/below", "loop"])
    def test_unusable_path(self, tmp_path: Path, name: str) -> None:
        """A path that leads nowhere is told in words, however the system refuses it."""
        (tmp_path / "file").write_bytes(b"x")
        (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(CredentialsError, match="can't be read") as error:
            secrets_of(tmp_path / name)
        assert "DATAFILE_WEBHOOK_SECRETS_PATH" in str(error.value)

    def test_are_recent(self, mounted: MountedSecret) -> None:
        """A flood of bad signatures has them read at most once a second, also while they can't be read."""
        now = 100.0
        mounted.write(a=b"old")
        secrets = secrets_of(mounted.path, clock=lambda: now)
        now = 100.9
        assert secrets.are_recent
        now = 101.0
        assert not secrets.are_recent
        mounted.path.rename(mounted.path.with_name("gone"))
        with pytest.raises(CredentialsError):
            secrets.reread()
        assert secrets.are_recent

    def test_no_path(self) -> None:
        """Without a path there is nothing to read again, and without any secret nothing verifies."""
        secrets = Secrets(None, (), lambda: 0.0)
        assert not secrets.active
        assert not secrets.untrimmed
        assert not secrets.reread()
        assert secrets.are_recent

    def test_words(self, tmp_path: Path) -> None:
        """Neither an error nor the object's own text ever shows a secret."""
        (tmp_path / "a").write_bytes(b"hunter2" * 10_000)
        with pytest.raises(CredentialsError) as error:
            secrets_of(tmp_path)
        assert "hunter2" not in str(error.value) + repr(Secrets(None, (b"hunter2",), lambda: 0.0))


KEYS = ("KEY1", "KEY2", "KEY3")


class TestTokens:
    def test_rotation(self, mounted: MountedSecret) -> None:
        """Each key gets its own token, new ones without a restart, and a key without a file none."""
        mounted.write(KEY1=b"token-1\n", KEY2=b"token-2")
        tokens = Tokens(mounted.path, KEYS)
        assert (tokens.get("KEY1"), tokens.get("KEY2"), tokens.get("KEY3")) == ("token-1", "token-2", None)
        mounted.write(KEY1=b"token-3")
        assert tokens.reread()
        assert (tokens.get("KEY1"), tokens.get("KEY2"), len(tokens)) == ("token-3", None, 1)
        assert not tokens.reread()

    @pytest.mark.parametrize(
        "content", [b"", b"\n", b"two words", b"two\nlines", b"\xc3\xa9", b"a\x00b", b"a\x7f", b"x" * 70_000]
    )
    def test_no_token(self, mounted: MountedSecret, content: bytes) -> None:
        """What can't stand in a header is refused in words that name the file and not what it holds; the old tokens stay."""
        mounted.write(KEY1=b"good")
        tokens = Tokens(mounted.path, KEYS)
        mounted.write(KEY1=content)
        with pytest.raises(CredentialsError, match=r"DATAFILE_ACCESS_TOKENS_PATH: .*/KEY1 ") as error:
            tokens.reread()
        assert tokens.get("KEY1") == "good"
        assert not content.strip() or content.decode("latin-1") not in str(error.value)

    def test_byte_order_mark(self, mounted: MountedSecret) -> None:
        """A token that a Windows tool wrote can stand in a header, and its file is named for a warning."""
        mounted.write(KEY1="\ufefftoken-1\r\n".encode("utf-16-le"), KEY2=b"token-2", OTHER=b"\xef\xbb\xbfx")
        tokens = Tokens(mounted.path, KEYS)
        assert (tokens.get("KEY1"), tokens.get("KEY2"), tokens.marked) == ("token-1", "token-2", ("KEY1",))

    def test_swap(self, mounted: MountedSecret, monkeypatch: pytest.MonkeyPatch) -> None:
        """A key whose file is taken away between listing and reading has no token; the start goes on."""
        mounted.write(KEY1=b"token-1", KEY2=b"token-2")
        listdir = os.listdir

        def swap(path: Path) -> list[str]:
            monkeypatch.undo()
            names = listdir(path)
            mounted.write(KEY1=b"token-1")
            return names

        monkeypatch.setattr(os, "listdir", swap)
        tokens = Tokens(mounted.path, KEYS)
        assert (tokens.get("KEY1"), tokens.get("KEY2")) == ("token-1", None)

    def test_strangers(self, mounted: MountedSecret) -> None:
        """A file that is named like none of our keys, whatever it holds, keeps nobody from starting; its name can be asked for."""
        mounted.write(KEY1=b"token-1", README=b"")
        tokens = Tokens(mounted.path, KEYS)
        assert (tokens.get("KEY1"), len(tokens), set(tokens.names)) == ("token-1", 1, {"KEY1", "README"})

    def test_no_directory(self, tmp_path: Path) -> None:
        """A path that is no directory stops the start in words."""
        (tmp_path / "file").write_bytes(b"token")
        for path in (tmp_path / "missing", tmp_path / "file"):
            with pytest.raises(CredentialsError, match=r"DATAFILE_ACCESS_TOKENS_PATH: .* can't be listed"):
                Tokens(path, KEYS)

    def test_no_path(self) -> None:
        """Without the setting no key has a token."""
        assert Tokens(None, KEYS).get("KEY1") is None
        assert not Tokens(None, KEYS).reread()


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Be nobody for a while, where the tests run as root, who may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_without_permission(tmp_path: Path) -> None:
    """A Secret that the sidecar's user may not read is told in words, on start and while it runs."""
    directory = tmp_path / "closed"
    directory.mkdir()
    (directory / "secret").write_bytes(b"good")
    secrets = secrets_of(directory)
    directory.chmod(0)
    try:
        with unprivileged():
            for path in (directory, directory / "secret"):
                with pytest.raises(CredentialsError, match="Permission denied"):
                    secrets_of(path)
            with pytest.raises(CredentialsError, match="Permission denied"):
                secrets.reread()
    finally:
        directory.chmod(0o700)
    assert secrets.active == (b"good",)
