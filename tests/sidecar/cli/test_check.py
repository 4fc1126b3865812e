"""`datafile-sidecar check` with common mistakes: each has its verdict and a fix that helps."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from datafile_sidecar.cli.checks.finding import CheckVerdict, Finding, as_text, exit_status
from datafile_sidecar.cli.checks.runner import check_all
from datafile_sidecar.cli.simulator import Simulator
from tests import datafiles
from tests.broker import Broker, needs_redis
from tests.failover import SentinelGroup
from tests.running import RunningSidecar

KEY = "KEY1"
OK, WARNING, FAILED, REFUSED = CheckVerdict


@pytest.fixture
async def optimizely() -> AsyncIterator[Simulator]:
    async with Simulator({KEY: datafiles.minimal(43)}, secret=None) as simulator:
        yield simulator


@pytest.fixture
def healthy(tmp_path: Path, optimizely: Simulator) -> dict[str, str]:
    """An environment without problems."""
    (tmp_path / "volume").mkdir()
    return {
        "DATAFILE_SDK_KEYS": KEY,
        "DATAFILE_DIR": str(tmp_path / "volume"),
        "DATAFILE_WEBHOOK_SECRETS": "hunter2",
        "DATAFILE_URL_TEMPLATE": optimizely.template,
    }


async def findings(environment: Mapping[str, str]) -> list[Finding]:
    found: list[Finding] = []
    await check_all(environment, found.append)
    return found


async def trouble(environment: Mapping[str, str]) -> list[Finding]:
    """The findings that are not OK. Each has a fix."""
    found = [finding for finding in await findings(environment) if finding.verdict is not OK]
    assert all(finding.fix for finding in found)
    return found


async def one_trouble(environment: Mapping[str, str]) -> Finding:
    """The only finding that is not OK: nothing else is blamed for it."""
    [finding] = await trouble(environment)
    return finding


def run(environment: Mapping[str, str], *options: str, command: str = "check") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "datafile_sidecar", command, *options],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


async def test_healthy(healthy: dict[str, str]) -> None:
    """A set-up that works has no problems, and every part of it is reported."""
    found = await findings(healthy)
    assert [finding for finding in found if finding.verdict is not OK] == []
    assert list(dict.fromkeys(finding.part for finding in found)) == [
        *("settings", "secrets", "directory", "upstream", "peers")
    ]
    [upstream] = [finding.message for finding in found if finding.part == "upstream"]
    assert "answered 200 with revision 43" in upstream
    assert "without an access token" in upstream
    assert "changed 0 min ago" in upstream


@pytest.mark.parametrize(
    ("minutes", "words"),
    [(90, "changed 90 min ago"), (121, "changed 2 h ago"), (2879, "changed 48 h ago"), (2881, "changed 2 days ago")],
)
async def test_age(healthy: dict[str, str], optimizely: Simulator, minutes: int, words: str) -> None:
    """How old the datafile is reads in the unit that suits it, whether it was flipped just now or a week ago."""

    async def old(_: web.Request) -> web.StreamResponse:
        modified = {"Last-Modified": format_datetime(datetime.now(UTC) - timedelta(minutes=minutes), usegmt=True)}
        return web.Response(body=datafiles.minimal(43), headers=modified)

    optimizely.answer = old
    [upstream] = [finding.message for finding in await findings(healthy) if finding.part == "upstream"]
    assert words in upstream


async def test_changes_nothing(healthy: dict[str, str], tmp_path: Path) -> None:
    """A look leaves the volume as it was."""
    (tmp_path / "volume" / "KEY1.json").write_bytes(datafiles.minimal(42))
    before = [(path.name, path.stat().st_mtime_ns) for path in (tmp_path / "volume").iterdir()]
    assert await trouble(healthy) == []
    assert [(path.name, path.stat().st_mtime_ns) for path in (tmp_path / "volume").iterdir()] == before


class TestSettings:
    async def test_unknown_variable(self, healthy: dict[str, str]) -> None:
        """A misspelt variable, with which a sidecar starts, fails here and is told how it is spelt."""
        found = await one_trouble(healthy | {"DATAFILE_POLL_INTERVALS": "5"})
        assert (found.part, found.verdict) == ("settings", FAILED)
        assert "rename it to DATAFILE_POLL_INTERVAL_S" in str(found.fix)

    async def test_bad_values(self, healthy: dict[str, str]) -> None:
        """Values with which no sidecar starts are told all at once."""
        found = await trouble(healthy | {"DATAFILE_SDK_KEYS": "undefined", "DATAFILE_POLL_INTERVAL_S": "soon"})
        assert [(finding.part, finding.verdict) for finding in found] == [("settings", REFUSED)] * 2
        assert all("run --help" in str(finding.fix) for finding in found)

    async def test_nothing_would_come(self, healthy: dict[str, str]) -> None:
        """Neither polls nor webhooks: each setting is fine, and together they keep a datafile for ever."""
        del healthy["DATAFILE_WEBHOOK_SECRETS"]
        found = await trouble(healthy | {"DATAFILE_POLL_INTERVAL_S": "0"})
        assert [(finding.part, finding.verdict) for finding in found] == [("settings", FAILED), ("secrets", WARNING)]
        assert "DATAFILE_WEBHOOK_SECRETS_PATH" in str(found[0].fix)

    async def test_foreign_address(self, healthy: dict[str, str]) -> None:
        """An address of another machine, with which no sidecar starts, is told with its setting; a port in use is not looked at."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            found = await one_trouble(
                healthy | {"DATAFILE_WEBHOOK_LISTEN": f"127.0.0.1:{port}", "DATAFILE_ADMIN_LISTEN": "192.0.2.1:9"}
            )
        assert (found.verdict, found.message) == (
            REFUSED,
            "DATAFILE_ADMIN_LISTEN: can't listen on 192.0.2.1 on this machine",
        )

    @pytest.mark.parametrize(
        ("webhook", "admin", "verdicts"),
        [
            (":9", "127.0.0.1:9", [REFUSED]),
            ("0.0.0.0:9", "[::1]:9", [REFUSED]),
            ("127.0.0.1:9", "127.0.0.2:9", []),
            (":0", ":0", []),
        ],
    )
    async def test_one_port_twice(
        self, healthy: dict[str, str], webhook: str, admin: str, verdicts: list[CheckVerdict]
    ) -> None:
        """One port for both listeners is refused: no sidecar starts with it. On two addresses, or with port 0, it is fine."""
        found = await trouble(healthy | {"DATAFILE_WEBHOOK_LISTEN": webhook, "DATAFILE_ADMIN_LISTEN": admin})
        assert [finding.verdict for finding in found] == verdicts


class TestSecrets:
    async def test_none(self, healthy: dict[str, str]) -> None:
        """Without a secret the sidecar polls only, which may be meant and may not."""
        del healthy["DATAFILE_WEBHOOK_SECRETS"]
        found = await one_trouble(healthy)
        assert (found.part, found.verdict) == ("secrets", WARNING)
        assert "set DATAFILE_WEBHOOK_SECRETS_PATH" in str(found.fix)

    @pytest.mark.parametrize("content", [None, b"\n"])
    async def test_unusable(self, healthy: dict[str, str], tmp_path: Path, content: bytes | None) -> None:
        """A Secret that is not mounted, or empty, with which no sidecar starts."""
        if content is not None:
            (tmp_path / "secret").write_bytes(content)
        found = await one_trouble(healthy | {"DATAFILE_WEBHOOK_SECRETS_PATH": str(tmp_path / "secret")})
        assert (found.part, found.verdict) == ("secrets", REFUSED)
        assert "check that the Secret is mounted there" in str(found.fix)

    async def test_white_space_and_empty(self, healthy: dict[str, str], tmp_path: Path) -> None:
        """White space around a secret and empty files among others are told by the name of their file, never by content."""
        (tmp_path / "secrets").mkdir()
        for name, content in (("old", "hunter3\n"), ("new", "hunter4"), ("none", " ")):
            (tmp_path / "secrets" / name).write_text(content)
        found = await trouble(healthy | {"DATAFILE_WEBHOOK_SECRETS_PATH": str(tmp_path / "secrets")})
        assert [(finding.verdict, finding.message.partition(" ")[0]) for finding in found] == [
            (WARNING, "old"),
            (WARNING, "none"),
        ]
        every = await findings(healthy | {"DATAFILE_WEBHOOK_SECRETS_PATH": str(tmp_path / "secrets")})
        assert "3 webhook secrets" in [finding.message for finding in every]
        assert not [finding for finding in every if "hunter" in repr(finding)]

    async def test_byte_order_mark(self, healthy: dict[str, str], tmp_path: Path, optimizely: Simulator) -> None:
        """A byte order mark, as Windows tools write it, is told for secrets and tokens, with the command that leaves it out."""
        optimizely.access_tokens[KEY] = "hunter2-token"
        for directory, name in (("secrets", "new"), ("tokens", KEY)):
            (tmp_path / directory).mkdir()
            (tmp_path / directory / name).write_text("hunter2-token", encoding="utf-8-sig")
        found = await trouble(
            healthy
            | {
                "DATAFILE_WEBHOOK_SECRETS_PATH": str(tmp_path / "secrets"),
                "DATAFILE_ACCESS_TOKENS_PATH": str(tmp_path / "tokens"),
                "DATAFILE_URL_TEMPLATE": optimizely.auth_template,
            }
        )
        assert [(finding.part, finding.verdict) for finding in found] == [("secrets", WARNING), ("tokens", WARNING)]
        assert all("byte order mark" in finding.message and "ascii" in str(finding.fix) for finding in found)

    async def test_tokens(self, healthy: dict[str, str], tmp_path: Path, optimizely: Simulator) -> None:
        """A token whose file is named like no key, and the key that has none for it, are told; and what upstream says to that."""
        optimizely.access_tokens[KEY] = "hunter2-token"
        (tmp_path / "tokens").mkdir()
        (tmp_path / "tokens" / "KEY-1").write_text("hunter2-token")
        environment = healthy | {
            "DATAFILE_ACCESS_TOKENS_PATH": str(tmp_path / "tokens"),
            "DATAFILE_URL_TEMPLATE": optimizely.auth_template,
        }
        found = await trouble(environment)
        assert [(finding.part, finding.verdict) for finding in found] == [
            ("tokens", WARNING),
            ("tokens", WARNING),
            ("upstream", FAILED),
        ]
        assert "name the file like the SDK key" in str(found[0].fix)
        (tmp_path / "tokens" / "KEY-1").rename(tmp_path / "tokens" / KEY)
        assert await trouble(environment) == []
        (tmp_path / "tokens" / KEY).write_text("two words")
        assert (await one_trouble(environment)).verdict is REFUSED


class TestDirectory:
    async def test_missing(self, healthy: dict[str, str], tmp_path: Path) -> None:
        """A directory that is not there is made on a laptop; in a pod it means that the volume is not mounted."""
        healthy["DATAFILE_DIR"] = str(tmp_path / "elsewhere")
        found = await one_trouble(healthy)
        assert (found.part, found.verdict) == ("directory", WARNING)
        found = await one_trouble(healthy | {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
        assert (found.verdict, "mount the shared volume" in str(found.fix)) == (FAILED, True)

    @pytest.mark.parametrize(
        ("path", "message"),
        [("file", "is not a directory"), ("file/in", "is not a directory"), ("loop", "can't be opened")],
    )
    async def test_no_directory(self, healthy: dict[str, str], tmp_path: Path, path: str, message: str) -> None:
        """What no sidecar can take as its directory, such as a file that a mount by subPath left, is refused here as by `run`."""
        (tmp_path / "file").touch()
        (tmp_path / "loop").symlink_to("loop")
        environment = healthy | {"DATAFILE_DIR": str(tmp_path / path)}
        found = await one_trouble(environment)
        assert (found.part, found.verdict, message in found.message) == ("directory", REFUSED, True)
        started = run(environment, command="run")
        assert (started.returncode, "name its path in DATAFILE_DIR" in started.stderr) == (1, True)

    async def test_not_writable_and_full(self, healthy: dict[str, str]) -> None:
        """A place where nothing can be written, and that has no room, is told with what to change."""
        found = await trouble(healthy | {"DATAFILE_DIR": "/proc/self/task"})
        assert [(finding.part, finding.verdict) for finding in found] == [("directory", FAILED)] * 2
        assert f"give user {os.getuid()} read and write permission" in str(found[0].fix)
        assert "sizeLimit" in str(found[1].fix)

    async def test_no_mount(self, healthy: dict[str, str], tmp_path: Path) -> None:
        """In a pod, a directory on the container's own file system is seen by no other container."""
        if os.stat(tmp_path).st_dev != os.stat("/").st_dev:
            pytest.skip("temporary directories are on a mount of their own here")
        found = await one_trouble(healthy | {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
        assert (found.part, found.verdict) == ("directory", FAILED)
        assert "mount an emptyDir" in str(found.fix)

    async def test_socket(self, healthy: dict[str, str], tmp_path: Path) -> None:
        """A path that is too long for the workers' socket, and a file in its place, are told."""
        directory = tmp_path / ("long" * 25)
        directory.mkdir()
        (directory / "sidecar.sock").touch()
        found = await trouble(healthy | {"DATAFILE_DIR": str(directory)})
        assert [(finding.part, finding.verdict) for finding in found] == [("directory", WARNING), ("directory", FAILED)]
        assert "shorter DATAFILE_DIR" in str(found[0].fix)

    async def test_bad_datafile(self, healthy: dict[str, str], tmp_path: Path) -> None:
        """A file that somebody put there, and that no SDK would take, is told."""
        (tmp_path / "volume" / "KEY1.json").write_text("{}")
        found = await one_trouble(healthy)
        assert (found.part, found.verdict) == ("directory", FAILED)
        assert "remove it" in str(found.fix)

    async def test_bootstrap(self, healthy: dict[str, str], tmp_path: Path) -> None:
        """A bootstrap file that would not help in an outage is told before there is one."""
        environment = healthy | {"DATAFILE_BOOTSTRAP_DIR": str(tmp_path)}
        found = await one_trouble(environment)
        assert (found.part, found.verdict, "No such file" in found.message) == ("bootstrap", FAILED, True)
        (tmp_path / "KEY1.json").write_bytes(datafiles.minimal(5, "KEY2"))
        assert (await one_trouble(environment)).verdict is FAILED
        (tmp_path / "KEY1.json").write_bytes(datafiles.minimal(5))
        assert await trouble(environment) == []


class TestUpstream:
    async def test_unreachable(self, healthy: dict[str, str]) -> None:
        """No way to upstream: the network is to be looked at."""
        found = await one_trouble(healthy | {"DATAFILE_URL_TEMPLATE": "http://127.0.0.1:9/{sdk_key}.json"})
        assert (found.part, found.verdict) == ("upstream", FAILED)
        assert "network policies, HTTPS_PROXY" in str(found.fix)

    async def test_unknown_key(self, healthy: dict[str, str], optimizely: Simulator) -> None:
        """A key that upstream does not know: the key is to be looked at, not the network."""
        found = await one_trouble(healthy | {"DATAFILE_SDK_KEYS": "KEY2"})
        assert "check the SDK key" in str(found.fix)

    async def test_no_datafile(self, healthy: dict[str, str], optimizely: Simulator) -> None:
        """A captive portal answers 200, and not with a datafile."""

        async def portal(_: web.Request) -> web.StreamResponse | None:
            return web.Response(text="<html>\x1b[31mSign in")

        optimizely.answer = portal
        found = await one_trouble(healthy)
        assert (found.part, found.verdict) == ("upstream", FAILED)
        assert "perhaps a proxy" in str(found.fix)

    async def test_tls(self, healthy: dict[str, str], optimizely: Simulator) -> None:
        """A port that speaks no TLS, asked over https."""
        found = await one_trouble(
            healthy | {"DATAFILE_URL_TEMPLATE": optimizely.template.replace("http://", "https://")}
        )
        assert "SSL_CERT_FILE" in str(found.fix)

    async def test_older(self, healthy: dict[str, str], tmp_path: Path) -> None:
        """An edge that shows what was before: no fault, and nothing to do but wait."""
        (tmp_path / "volume" / "KEY1.json").write_bytes(datafiles.minimal(44))
        found = await one_trouble(healthy)
        assert (found.part, found.verdict) == ("upstream", WARNING)
        assert "older than revision 44" in found.message


class TestPeers:
    async def test_unresolved(self, healthy: dict[str, str]) -> None:
        """A name that means nothing here leads to the Service."""
        # No name server is asked: the system refuses a label of more than 63 letters by itself.
        found = await one_trouble(healthy | {"DATAFILE_PEERS": f"{'x' * 64}:8089"})
        assert (found.part, found.verdict) == ("peers", FAILED)
        assert "headless Service" in str(found.fix)

    async def test_who_answers(self, healthy: dict[str, str], tmp_path: Path, optimizely: Simulator) -> None:
        """A sidecar is told from a server that is none and from a dead port, and it does not even notice."""
        settings: dict[str, Any] = {"sdk_keys": KEY, "webhook_secrets": "x", "url_template": optimizely.template}
        with socket.create_server(("127.0.0.1", 0)) as silent:
            silent_port = silent.getsockname()[1]
        async with RunningSidecar(tmp_path / "peer", **settings) as running:
            alive = running.webhook_url.split("/")[2]
            assert await trouble(healthy | {"DATAFILE_PEERS": alive}) == []
            other = optimizely.template.split("/")[2]
            found = await trouble(healthy | {"DATAFILE_PEERS": f"{alive},{other},127.0.0.1:{silent_port}"})
            assert "webhook.rejected" not in running.output
        assert [(finding.part, finding.verdict) for finding in found] == [("peers", FAILED)] * 2
        assert f"{other} (answers 404: not a sidecar's webhook port)" in found[0].message
        assert f"127.0.0.1:{silent_port} (Connection refused)" in found[1].message
        assert "DATAFILE_WEBHOOK_LISTEN" in str(found[1].fix)

    @pytest.mark.parametrize(("count", "verdicts"), [(499, [FAILED]), (500, [WARNING, FAILED])])
    async def test_many_addresses(
        self, healthy: dict[str, str], monkeypatch: pytest.MonkeyPatch, count: int, verdicts: list[CheckVerdict]
    ) -> None:
        """From 500 addresses of a name on, it says that the bus is the way."""

        async def many(*_: object) -> list[str]:
            return [f"127.1.{number // 250}.{number % 250 + 1}" for number in range(count)]

        monkeypatch.setattr("datafile_sidecar.cli.checks.peers.addresses", many)
        found = await trouble(healthy | {"DATAFILE_PEERS": "peers:1"})
        assert [(finding.part, finding.verdict) for finding in found] == [("peers", verdict) for verdict in verdicts]
        assert ("DATAFILE_BUS_URL" in str(found[0].fix)) == (len(verdicts) == 2)


class TestBus:
    async def test_absent(self, healthy: dict[str, str]) -> None:
        """A broker that is not there is told without its password, and with what to look at."""
        found = await one_trouble(healthy | {"DATAFILE_BUS_URL": "redis://me:hunter2@127.0.0.1:9/0"})
        assert (found.part, found.verdict, "hunter2" in found.message) == ("bus", FAILED, False)
        assert "see that the broker runs" in str(found.fix)

    async def test_no_extra(self, healthy: dict[str, str], tmp_path: Path) -> None:
        """A bus without the client for Redis, with which no sidecar starts, is refused, with what to install."""
        (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['redis'] = None")
        environment = healthy | {"DATAFILE_BUS_URL": "redis://127.0.0.1:9", "PYTHONPATH": str(tmp_path)}
        done = await asyncio.to_thread(run, environment)
        started = await asyncio.to_thread(run, environment, command="run")
        assert (done.returncode, started.returncode) == (2, 1)
        assert "pip install 'datafile-sidecar[redis]'" in done.stdout
        assert "pip install 'datafile-sidecar[redis]'" in started.stderr

    @needs_redis
    async def test_password_and_permission(self, healthy: dict[str, str]) -> None:
        """A wrong password and a user who may not write are told apart; a broker that will do is left as it was."""
        async with Broker() as broker:
            assert await trouble(healthy | {"DATAFILE_BUS_URL": broker.url}) == []
            await asyncio.sleep(0.01)
            assert await broker.client().keys() == []
            await broker.command("ACL", "SETUSER", "reader", "on", ">hunter2", "~*", "&*", "+@all", "-set")
            reader = broker.url.replace("://", "://reader:hunter2@")
            found = await one_trouble(healthy | {"DATAFILE_BUS_URL": reader})
            assert (found.verdict, "docs/operations.md" in str(found.fix)) == (FAILED, True)
            found = await one_trouble(healthy | {"DATAFILE_BUS_URL": reader.replace("hunter2", "hunter3")})
            assert (found.verdict, "user and password" in str(found.fix)) == (FAILED, True)
            assert "hunter" not in found.message

    @needs_redis
    async def test_permissions_of_an_older_version(self, healthy: dict[str, str]) -> None:
        """A user who may share datafiles and not register is a warning that names the command: `status` proves nothing."""
        async with Broker() as broker:
            await broker.command("ACL", "SETUSER", "old", "on", ">x", "~*", "&*", "+@all", "-hrandfield")
            found = await one_trouble(healthy | {"DATAFILE_BUS_URL": broker.url.replace("://", "://old:x@")})
        assert found.verdict == WARNING
        assert "hrandfield" in found.message
        assert "docs/operations.md" in str(found.fix)

    @needs_redis
    async def test_no_room(self, healthy: dict[str, str]) -> None:
        """A broker that takes no writes for lack of memory is a problem of its memory, not of its ACL."""
        async with Broker("--maxmemory", "1") as broker:
            found = await one_trouble(healthy | {"DATAFILE_BUS_URL": broker.url})
        assert (found.part, found.verdict) == ("bus", FAILED)
        assert "the broker takes no writes: OOM" in found.message
        assert "maxmemory" in str(found.fix)

    @pytest.mark.parametrize(
        ("answer", "message", "fix"),
        [
            (
                b"-MOVED 10648 127.0.0.1:18912",
                "a node of a Redis Cluster: MOVED 10648 127.0.0.1:18912",
                "redis+cluster://",
            ),
            (
                b"-READONLY You can't write against a read only replica.",
                "takes no writes: READONLY",
                "name the primary",
            ),
            (b"-MISCONF Redis is configured to save RDB snapshots", "takes no writes: MISCONF", "its disk"),
            (b"HTTP/1.1 400 Bad Request", "this is not Redis: it answers 'HTTP/1.1 400", "host, port"),
        ],
    )
    async def test_of_no_use(self, healthy: dict[str, str], answer: bytes, message: str, fix: str) -> None:
        """A node of a cluster, a replica, a full disk and another server are told apart; none is a matter of the ACL."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while request := await reader.read(65536):
                writer.write((answer + b"\r\n") * request.count(b"*"))
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            found = await one_trouble(healthy | {"DATAFILE_BUS_URL": url})
        assert (found.part, found.verdict) == ("bus", FAILED)
        assert re.search(message, found.message)
        assert fix in str(found.fix)

    @needs_redis
    async def test_a_master_that_no_sentinel_knows(self, healthy: dict[str, str]) -> None:
        """A wrong name after `#` is not called a matter of host and port."""
        async with SentinelGroup() as group:
            found = await one_trouble(healthy | {"DATAFILE_BUS_URL": group.url.replace("#", "#other-")})
        assert (found.part, found.verdict) == ("bus", FAILED)
        assert "knows no master by the name other-" in found.message
        assert "after # in DATAFILE_BUS_URL" in str(found.fix)

    @needs_redis
    async def test_hangs(self, healthy: dict[str, str]) -> None:
        """A broker that takes connections and says nothing ends the look after some seconds."""
        async with Broker() as broker:
            broker.hang()
            try:
                found = await one_trouble(healthy | {"DATAFILE_BUS_URL": broker.url})
            finally:
                broker.go_on()
        assert (found.part, found.verdict, "no answer within" in found.message) == ("bus", FAILED, True)


class TestCommand:
    def test_status(self, tmp_path: Path) -> None:
        """The exit status distinguishes what works, what has problems and what would not start."""
        environment = {"DATAFILE_SDK_KEYS": KEY, "DATAFILE_DIR": str(tmp_path), "DATAFILE_WEBHOOK_SECRETS": "hunter2"}
        upstream = {"DATAFILE_URL_TEMPLATE": "http://127.0.0.1:9/{sdk_key}.json"}
        done = run(environment | upstream)
        assert (done.returncode, done.stderr) == (1, "")
        assert "1 problem found." in done.stdout
        assert "\x1b" not in done.stdout
        assert "were skipped" not in run(environment | {"DATAFILE_WEBHOOK_SECRETS_PATH": "/nowhere"}).stdout
        assert "Checks that depend on it were skipped." in run({"DATAFILE_SDK_KEYS": "a b"}).stdout
        done = run(upstream, "--json")
        report = json.loads(done.stdout)
        assert (done.returncode, report["verdict"], report["findings"][0]["part"]) == (2, "refused", "settings")
        assert set(report["findings"][0]) == {"part", "verdict", "message", "fix"}

    def test_verdicts(self) -> None:
        """A warning alone fails no pipeline; the worst verdict counts."""
        some = {verdict: Finding("x", verdict, "y", "z") for verdict in CheckVerdict}
        assert [exit_status([some[OK], some[verdict]]) for verdict in CheckVerdict] == [0, 0, 1, 2]
        assert exit_status(some.values()) == 2

    def test_text(self) -> None:
        """On a terminal verdicts have a colour, and what upstream says can't give itself one."""
        finding = Finding("upstream", FAILED, "\x1b[32mall is well\n", "fix it")
        assert as_text(finding, colours=True).count("\x1b") == 2
        assert as_text(finding, colours=False).count("\x1b") == 0
        assert len(as_text(finding, colours=True).splitlines()) == 2
