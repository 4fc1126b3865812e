"""A new pod of a running fleet whose CDN edge is stale: real sidecars, which ask each other at their admin ports."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from datafile_sidecar.cli.simulator import Simulator
from tests.datafiles import minimal
from tests.running import RunningSidecar

KEY = "KEY1"
OLD, NEW = 42, 43


def free_ports(*hosts: str) -> tuple[int, int]:
    """Two ports that are free at all these addresses."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(2):
            port = stack.enter_context(socket.create_server((hosts[0], 0))).getsockname()[1]
            for host in hosts[1:]:
                stack.enter_context(socket.create_server((host, port)))
            ports.append(port)
    return ports[0], ports[1]


@dataclass
class Fleet:
    """Pods of the same ports at addresses of their own; `fresh` and `stale` are what their CDN edges serve."""

    directory: Path
    hosts: tuple[str, ...]
    fresh: Simulator
    stale: Simulator
    ports: tuple[int, int]

    def pod(self, host: str, edge: Simulator, **settings: Any) -> RunningSidecar:
        webhook, admin = self.ports
        return RunningSidecar(
            self.directory / host,
            sdk_keys=KEY,
            webhook_secrets="secret",
            url_template=edge.template,
            poll_interval_s=3600,
            webhook_listen=f"{host}:{webhook}",
            admin_listen=f"{host}:{admin}",
            peers=",".join(f"{one}:{webhook}" for one in self.hosts),
            **settings,
        )


@contextlib.asynccontextmanager
async def fleet(directory: Path, running: int) -> AsyncIterator[Fleet]:
    """So many pods at the newest revision, and room for a new one at the last address."""
    hosts = tuple(f"127.0.7.{number}" for number in range(1, running + 2))
    async with contextlib.AsyncExitStack() as stack:
        fresh, stale = [
            await stack.enter_async_context(Simulator({KEY: minimal(revision)}, secret=b"secret"))
            for revision in (NEW, OLD)
        ]
        fleet = Fleet(directory, hosts, fresh, stale, free_ports(*hosts))
        for host in hosts[:-1]:
            await stack.enter_async_context(fleet.pod(host, fresh))
        yield fleet


async def ready(pod: RunningSidecar) -> int:
    """The answer of /readyz."""
    async with aiohttp.ClientSession() as session, session.get(f"{pod.admin_url}/readyz") as answer:
        return answer.status


async def test_a_new_pod_does_not_begin_behind_the_fleet(tmp_path: Path) -> None:
    """Its edge serves 42 while two peers have 43: it waits, and begins with 43 as soon as its edge serves that."""
    async with fleet(tmp_path, 2) as pods, pods.pod(pods.hosts[-1], pods.stale, ready=False) as new:
        await new.logged("datafile.refused", served=OLD)
        assert await ready(new) == 503
        status = (await new.status())["keys"][KEY]
        assert (status["revision"], status["target_revision"]) == (None, None)
        assert status["last_error"] == "upstream serves revision 42, older than what other pods have"
        pods.stale.put(KEY, minimal(NEW))
        await new.logged("datafile.published", revision=NEW)
        assert [line["revision"] for line in new.logs if line["event"] == "datafile.published"] == [NEW]


async def test_one_peer_is_not_enough(tmp_path: Path) -> None:
    """A single sidecar may be wrong: the new pod begins with what its edge serves, and refuses nothing."""
    async with fleet(tmp_path, 1) as pods, pods.pod(pods.hosts[-1], pods.stale) as new:
        await new.logged("datafile.published", revision=OLD)
        assert not any(line["event"] == "datafile.refused" for line in new.logs)


async def test_a_pod_with_a_kept_file_is_ready_at_once(tmp_path: Path) -> None:
    """It does not matter to it what its peers have: it was there before, and its next poll or webhook brings the news."""
    async with fleet(tmp_path, 2) as pods:
        alone = pods.pod(pods.hosts[-1], pods.stale)
        alone.environment.pop("DATAFILE_PEERS")
        async with alone:
            await alone.stop()
        pods.stale.put(KEY, minimal(OLD - 1))
        async with pods.pod(pods.hosts[-1], pods.stale) as again:
            assert (await again.status())["keys"][KEY]["revision"] == OLD


@pytest.mark.parametrize("kind", ["closed", "silent", "garbage", "endless"])
async def test_peers_that_answer_badly_are_no_obstacle(tmp_path: Path, kind: str) -> None:
    """Whatever is at the peers' admin ports, the new pod begins without it."""
    hosts = ("127.0.7.1", "127.0.7.2", "127.0.7.3")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b"[" * 1000
        with contextlib.suppress(ConnectionError):
            if kind == "silent":
                await reader.read()  # until the other side gives up
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + body)
            while kind == "endless":
                writer.write(body * 100)
                await writer.drain()
        writer.close()

    async with contextlib.AsyncExitStack() as stack:
        stale = await stack.enter_async_context(Simulator({KEY: minimal(OLD)}, secret=b"secret"))
        pods = Fleet(tmp_path, hosts, stale, stale, free_ports(*hosts))
        for host in hosts[:-1] if kind != "closed" else ():
            await stack.enter_async_context(await asyncio.start_server(answer, host, pods.ports[1]))
        new = await stack.enter_async_context(pods.pod(hosts[-1], stale))
        assert (await new.status())["keys"][KEY]["revision"] == OLD


async def test_many_new_keys_share_the_answers(tmp_path: Path) -> None:
    """A new pod with 60 keys, which load one after the other, asks each of its peers once or twice, not once for each key."""
    keys = [f"KEY{number}" for number in range(60)]
    asked: list[str] = []

    async def status(request: web.Request) -> web.Response:
        asked.append(request.host)
        return web.json_response({"pod": request.host, "keys": {}})

    hosts = ("127.0.7.1", "127.0.7.2")
    async with contextlib.AsyncExitStack() as stack:
        edge = await stack.enter_async_context(Simulator({key: minimal(NEW, key) for key in keys}, secret=b"secret"))
        webhook, admin = free_ports(*hosts, "127.0.7.3")
        app = web.Application()
        app.router.add_get("/status", status)
        runner = web.AppRunner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        for host in hosts:
            await web.TCPSite(runner, host, admin).start()
        async with RunningSidecar(
            tmp_path,
            sdk_keys=",".join(keys),
            url_template=edge.template,
            webhook_listen=f"127.0.7.3:{webhook}",
            admin_listen=f"127.0.7.3:{admin}",
            peers=",".join(f"{host}:{webhook}" for host in hosts),
        ):
            pass
    assert len(hosts) <= len(asked) <= 2 * len(hosts)
