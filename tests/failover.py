"""Brokers that fail over, for tests: a master with a replica under a Sentinel, and a Redis Cluster. All are real servers."""

import asyncio
import shutil
import signal
import subprocess
import tempfile
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Self

import pytest
import redis.asyncio
from redis.exceptions import RedisError

from tests.broker import Broker, free_port, redis_server, tls_options

_PATIENCE_S = 20
DETECTION_S = 1.0
"""A master that is silent for this long counts as down."""
MASTER = "flags"
_SLOTS = ((0, 5460), (5461, 10922), (10923, 16383))

needs_redis_cluster = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="no redis-server of version 7: apt install redis-server"
)


def certificate(directory: Path) -> Path:
    """Make a certificate for 127.0.0.1 that is its own authority, with its key in the same file, and good for both sides."""
    path, key = directory / "certificate.pem", directory / "key.pem"
    subprocess.run(
        (
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ),
            *("-subj", "/CN=broker of a test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", path),
        ),
        check=True,
        capture_output=True,
    )
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


class SentinelGroup:
    """A master, a replica, and a Sentinel that watches both: an async context manager."""

    def __init__(self, password: str | None = None, *, tls: Path | None = None) -> None:
        """With a password, master, replica and Sentinel all want it; with a certificate, all take only TLS."""
        self._password = password
        self._tls = tls
        self._program = shutil.which("redis-server") if tls else redis_server()
        self._stack = AsyncExitStack()
        self.port = free_port()

    @property
    def url(self) -> str:
        """The value for DATAFILE_BUS_URL."""
        return f"redis{'s' if self._tls else ''}-sentinel://127.0.0.1:{self.port}/0#{MASTER}"

    @property
    def servers(self) -> list[Broker]:
        """Master and replica."""
        return [self.master, self.replica]

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            wants = ("--requirepass", self._password, "--masterauth", self._password) if self._password else ()
            self.master = await stack.enter_async_context(self._server(*wants))
            replica_of = ("--replicaof", "127.0.0.1", str(self.master.port))
            self.replica = await stack.enter_async_context(self._server(*wants, *replica_of))
            configuration = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "sentinel.conf"
            lines = (
                *self._listening(),
                "bind 127.0.0.1",
                f"sentinel monitor {MASTER} 127.0.0.1 {self.master.port} 1",
                f"sentinel down-after-milliseconds {MASTER} {DETECTION_S * 1000:.0f}",
                f"sentinel failover-timeout {MASTER} 5000",
            )
            if self._password:
                lines += (f"sentinel auth-pass {MASTER} {self._password}", f"requirepass {self._password}")
            configuration.write_text("\n".join(lines) + "\n")
            assert self._program
            process = await asyncio.create_subprocess_exec(
                *(self._program, str(configuration), "--sentinel"),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            stack.push_async_callback(_end, process)
            await self._until_watched()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def fail_over(self) -> None:
        """Let the Sentinel promote the replica, though the master lives."""
        async with self._sentinel() as sentinel:
            await _execute(sentinel, "SENTINEL", "FAILOVER", MASTER)

    async def _until_watched(self) -> None:
        """Return when the Sentinel knows a replica that can be promoted."""
        async with asyncio.timeout(_PATIENCE_S), self._sentinel() as sentinel:
            while True:
                with suppress(RedisError):
                    replicas = await _execute(sentinel, "SENTINEL", "REPLICAS", MASTER)
                    known = [dict(zip(one[::2], one[1::2], strict=True)) for one in replicas]
                    if [one[b"master-link-status"] for one in known] == [b"ok"]:
                        return
                await asyncio.sleep(0.05)

    def _server(self, *arguments: str) -> Broker:
        return Broker(*arguments, program=self._program, tls=self._tls)

    def _listening(self) -> list[str]:
        options = tls_options(self.port, self._tls) if self._tls else ("--port", str(self.port))
        return [f"{name.removeprefix('--')} {value}" for name, value in zip(options[::2], options[1::2], strict=True)]

    def _sentinel(self) -> "redis.asyncio.Redis":
        tls = {"ssl": True, "ssl_ca_certs": str(self._tls)} if self._tls else {}
        return redis.asyncio.Redis(host="127.0.0.1", port=self.port, protocol=2, password=self._password, **tls)  # type: ignore[arg-type]


class Cluster:
    """Three masters, of which the one that owns a key has a replica: an async context manager."""

    def __init__(self, key: str, *arguments: str, tls: Path | None = None) -> None:
        """`arguments` go to each node; with a certificate, all take only TLS."""
        self._key = key
        self._tls = tls
        self._arguments = arguments
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        """The value for DATAFILE_BUS_URL: it names nodes that stay."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in (*self.others, self.replica))
        return f"redis{'s' if self._tls else ''}+cluster://{hosts}"

    @property
    def servers(self) -> list[Broker]:
        """All nodes."""
        return [self.owner, *self.others, self.replica]

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            bus_ports = [str(free_port()) for _ in range(len(_SLOTS) + 1)]
            nodes = [await stack.enter_async_context(self._node(port)) for port in bus_ports]
            for node, slots in zip(nodes, _SLOTS, strict=False):
                await _execute(node.client(), "CLUSTER", "ADDSLOTSRANGE", *map(str, slots))
            for node, bus_port in zip(nodes[1:], bus_ports[1:], strict=True):
                await _execute(nodes[0].client(), "CLUSTER", "MEET", "127.0.0.1", str(node.port), bus_port)
            slot = await _execute(nodes[0].client(), "CLUSTER", "KEYSLOT", self._key)
            *masters, self.replica = nodes
            [self.owner] = [node for node, (first, last) in zip(masters, _SLOTS, strict=True) if first <= slot <= last]
            self.others = [node for node in masters if node is not self.owner]
            self.slot = slot
            await self._replicate()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    async def move_slot(self, to: Broker) -> None:
        """Give the key's slot, which must be empty, to another master."""
        node_id = (await _execute(to.client(), "CLUSTER", "MYID")).decode()
        for node in (to, self.owner, *self.others):
            await _execute(node.client(), "CLUSTER", "SETSLOT", str(self.slot), "NODE", node_id)

    def _node(self, bus_port: str) -> Broker:
        timeout = ("--cluster-node-timeout", f"{DETECTION_S * 1000:.0f}")
        tls = ("--tls-cluster", "yes") if self._tls else ()
        options = ("--cluster-enabled", "yes", "--cluster-port", bus_port, *timeout, *tls)
        return Broker(*options, *self._arguments, program=shutil.which("redis-server"), tls=self._tls)

    async def _replicate(self) -> None:
        owner_id = (await _execute(self.owner.client(), "CLUSTER", "MYID")).decode()
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                with suppress(RedisError):  # it does not know the owner yet
                    await _execute(self.replica.client(), "CLUSTER", "REPLICATE", owner_id)
                    break
                await asyncio.sleep(0.05)
            for node in self.servers:
                while b"cluster_state:ok" not in (info := await _cluster_info(node)) or b"known_nodes:4" not in info:
                    await asyncio.sleep(0.05)
            while (await self.replica.client().info("replication"))["master_link_status"] != "up":
                await asyncio.sleep(0.05)


async def _cluster_info(node: Broker) -> bytes:
    info = await _execute(node.client(), "CLUSTER INFO")
    return info if isinstance(info, bytes) else repr(info).replace("'", "").replace(": ", ":").encode()


async def _execute(client: "redis.asyncio.Redis", *words: str) -> Any:
    return await client.execute_command(*words)  # type: ignore[no-untyped-call]


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGKILL)
        await process.wait()
