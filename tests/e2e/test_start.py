"""How a sidecar starts: with what was kept, with what was packed, with nothing; and whose datafiles it serves."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from datafile_sidecar.cli.simulator import Simulator, webhook_body
from datafile_sidecar.core.webhook import signature
from tests.datafiles import minimal
from tests.running import RunningSidecar
from tests.sidecar.wire import Request, head, ok, wire
from tests.stopwatch import Stopwatch

KEY = "KEY1"
SECRET = "test-secret-1"


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator({KEY: minimal(42)}, secret=SECRET.encode()) as simulator:
        yield simulator


def revision(directory: Path, key: str = KEY) -> int | None:
    """What a reader of the volume sees."""
    try:
        return int(json.loads((directory / f"{key}.json").read_bytes())["revision"])
    except FileNotFoundError:
        return None


async def until(directory: Path, wanted: int, key: str = KEY) -> None:
    """Wait until a reader sees this revision."""
    async with asyncio.timeout(30):
        while revision(directory, key) != wanted:
            await asyncio.sleep(0.01)


async def post(url: str, body: bytes, secret: str = SECRET) -> int:
    """Sign and post a webhook's body; the answer."""
    headers = {"X-Hub-Signature": signature(body, secret.encode())}
    async with ClientSession() as session, session.post(url, data=body, headers=headers) as answer:
        return answer.status


async def readiness(sidecar: RunningSidecar) -> tuple[int, str]:
    """Status and text of /readyz."""
    async with ClientSession() as session, session.get(f"{sidecar.admin_url}/readyz") as answer:
        return answer.status, await answer.text()


async def test_a_kept_file_makes_it_ready_while_upstream_is_down(tmp_path: Path) -> None:
    """A restart in an outage serves what was there before, whole, and says that upstream can't be reached."""
    (tmp_path / f"{KEY}.json").write_bytes(minimal(42))
    stopwatch = Stopwatch()
    async with RunningSidecar(tmp_path, sdk_keys=KEY, url_template="http://127.0.0.1:9/{sdk_key}.json") as sidecar:
        assert stopwatch.seconds(sidecar.pid) < 5
        await sidecar.logged("fetch.failed")
        status = await sidecar.status()
        assert status["ready"]
        assert status["keys"][KEY]["revision"] == 42
        assert "127.0.0.1:9" in status["keys"][KEY]["last_error"]
    assert (tmp_path / f"{KEY}.json").read_bytes() == minimal(42)


@pytest.mark.parametrize("content", [b"", b"{", minimal(42)[:100], minimal(42, "KEY2"), b"\0" * 10_000])
async def test_a_kept_file_that_is_no_good_is_replaced(tmp_path: Path, simulator: Simulator, content: bytes) -> None:
    """A torn file, or another key's, makes nothing ready, and gives way to what upstream serves."""
    (tmp_path / f"{KEY}.json").write_bytes(content)
    async with RunningSidecar(tmp_path, sdk_keys=KEY, url_template=simulator.template) as sidecar:
        assert revision(tmp_path) == 42
        await sidecar.logged("datafile.unusable", origin="volume")


async def test_with_nothing_it_is_alive_not_ready_and_says_why(tmp_path: Path) -> None:
    """No datafile anywhere: probes answer at once, nothing restarts, and the end of the outage is the end of it."""
    async with wire(head(500, "Content-Length: 0")) as upstream:
        settings: dict[str, Any] = {"sdk_keys": KEY, "url_template": upstream.template}
        async with RunningSidecar(tmp_path, ready=False, **settings) as sidecar:
            await sidecar.logged("fetch.failed")
            status, text = await readiness(sidecar)
            assert status == 503
            assert KEY in text
            assert "500" in text
            upstream.answer = ok(minimal(42))
            await until(tmp_path, 42)


async def test_the_bootstrap_file_steps_in_and_steps_back(tmp_path: Path) -> None:
    """While upstream is down the packed file is published; the first good answer replaces it."""
    (packed := tmp_path / "packed").mkdir()
    (packed / f"{KEY}.json").write_bytes(minimal(40))
    volume = tmp_path / "volume"

    async def silence(_: Request, __: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async with wire(silence) as upstream:
        settings: dict[str, Any] = {
            "sdk_keys": KEY,
            "url_template": upstream.template,
            "bootstrap_dir": packed,
            "bootstrap_after_s": 0.3,
        }
        async with RunningSidecar(volume, webhook_secrets=SECRET, **settings) as sidecar:
            assert revision(volume) == 40
            status = (await sidecar.status())["keys"][KEY]
            assert (status["trigger"], status["checked"], status["fetched"]) == ("bootstrap", None, None)
        upstream.answer = ok(minimal(42))
        async with RunningSidecar(volume, webhook_secrets=SECRET, **settings):
            await until(volume, 42)


async def test_the_bootstrap_file_never_replaces_anything_newer(tmp_path: Path) -> None:
    """What was kept wins over what was packed."""
    (packed := tmp_path / "packed").mkdir()
    (packed / f"{KEY}.json").write_bytes(minimal(40))
    (volume := tmp_path / "volume").mkdir()
    (volume / f"{KEY}.json").write_bytes(minimal(41))
    settings: dict[str, Any] = {
        "bootstrap_dir": packed,
        "bootstrap_after_s": 0,
        "url_template": "http://127.0.0.1:9/{sdk_key}.json",
    }
    async with RunningSidecar(volume, sdk_keys=KEY, **settings) as sidecar:
        await sidecar.logged("fetch.failed")
        assert revision(volume) == 41


async def test_a_validator_is_remembered_only_with_its_body(tmp_path: Path) -> None:
    """A 200 that was no datafile leaves no ETag behind; else upstream would say 304 to it for ever."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        if len(upstream.requests) == 1:
            writer.write(ok(b"<html>", 'ETag: "a"', "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT"))
        elif "if-none-match" in request.headers or "if-modified-since" in request.headers:
            writer.write(head(304, "Content-Length: 0"))
        else:
            writer.write(ok(minimal(42), 'ETag: "a"'))
        await writer.drain()

    async with wire(answer) as upstream, RunningSidecar(tmp_path, sdk_keys=KEY, url_template=upstream.template):
        await until(tmp_path, 42)


async def test_not_modified_without_a_body_in_hand_is_no_answer(tmp_path: Path) -> None:
    """An upstream that says 304 to everything leaves the sidecar alive and not ready, and asks to be asked again."""
    async with wire(head(304, "Content-Length: 0")) as upstream:
        async with RunningSidecar(tmp_path, ready=False, sdk_keys=KEY, url_template=upstream.template) as sidecar:
            await sidecar.logged("fetch.failed", outcome="protocol_error")
            assert (await readiness(sidecar))[0] == 503
            upstream.answer = ok(minimal(42))
            await until(tmp_path, 42)


async def test_several_keys_with_tokens_live_in_one_sidecar(tmp_path: Path) -> None:
    """Each key has its own file, target and token; a webhook wakes only the one that it names."""
    (tokens := tmp_path / "tokens").mkdir()
    (tokens / "KEY2").write_text("token-two\n")
    volume = tmp_path / "volume"
    bodies = {KEY: minimal(42), "KEY2": minimal(7, "KEY2")}
    async with Simulator(bodies, secret=SECRET.encode()) as simulator:
        simulator.access_tokens = {"KEY2": "token-two"}
        settings: dict[str, Any] = {
            "url_template": simulator.template,
            "access_tokens_path": tokens,
            "poll_interval_s": 3600,
        }
        async with RunningSidecar(volume, sdk_keys="KEY1,KEY2", webhook_secrets=SECRET, **settings) as sidecar:
            simulator.webhook_urls = [sidecar.webhook_url]
            assert (revision(volume), revision(volume, "KEY2")) == (42, 7)
            assert await simulator.publish("KEY2", minimal(8, "KEY2")) == 202
            await until(volume, 8, "KEY2")
            keys = (await sidecar.status())["keys"]
            assert (keys[KEY]["revision"], keys[KEY]["webhook"]) == (42, None)
            assert "token-two" not in sidecar.output


async def test_secrets_and_tokens_change_while_it_runs(tmp_path: Path, simulator: Simulator) -> None:
    """A mounted Secret is exchanged by its `..data` link: the new secret is good at once, the revoked one is not."""
    secrets = tmp_path / "secrets"
    mount(secrets, "1", {"a": "old-secret", "b": SECRET + "\n"})
    async with RunningSidecar(
        tmp_path / "volume", sdk_keys=KEY, url_template=simulator.template, webhook_secrets_path=secrets
    ) as sidecar:
        body = webhook_body(1, project_id=1234, cdn_url=simulator.template.format(sdk_key=KEY), origin_url="")
        assert await post(sidecar.webhook_url, body, "old-secret") == 200
        assert await post(sidecar.webhook_url, body, SECRET) == 200
        await sidecar.logged("secret.trimmed", name="b")
        mount(secrets, "2", {"b": "new-secret"})
        await asyncio.sleep(1.1)  # a bad signature makes it look again at most once a second
        assert await post(sidecar.webhook_url, body, "new-secret") == 200
        assert await post(sidecar.webhook_url, body, "old-secret") == 401
        assert "new-secret" not in sidecar.output


def mount(directory: Path, version: str, files: Mapping[str, str | bytes]) -> None:
    """Lay files out as the kubelet does: a directory for each version, and links through `..data`."""
    (content := directory / f"..{version}").mkdir(parents=True)
    for name, text in files.items():
        (content / name).write_bytes(text.encode() if isinstance(text, str) else text)
    (link := directory / "..data_tmp").symlink_to(content.name)
    link.rename(directory / "..data")
    for name in {entry.name for entry in directory.iterdir() if not entry.name.startswith("..")} - files.keys():
        (directory / name).unlink()
    for name in files:
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")


async def test_the_event_of_an_old_project_is_a_reason_to_look(tmp_path: Path, simulator: Simulator) -> None:
    """Empty URLs, no environment, a revision that does not compare: what changed is found, and the target is not raised."""
    settings: dict[str, Any] = {"url_template": simulator.template, "webhook_secrets": SECRET, "poll_interval_s": 3600}
    async with RunningSidecar(tmp_path, sdk_keys=KEY, **settings) as sidecar:
        simulator.put(KEY, minimal(43))
        data = {"revision": 9000, "origin_url": "", "cdn_url": ""}
        event = {"project_id": 1234, "timestamp": 1, "event": "project.datafile_updated", "data": data}
        assert await post(sidecar.webhook_url, json.dumps(event).encode()) == 202
        await until(tmp_path, 43)
        assert await post(sidecar.webhook_url, json.dumps(event | {"project_id": 9999}).encode()) == 200
        status = (await sidecar.status())["keys"][KEY]
        assert (status["target_revision"], status["trigger"]) == (43, "webhook")
        assert (await sidecar.metrics())[f'datafile_sidecar_missed_webhooks_total{{sdk_key="{KEY}"}}'] == 0


async def test_project_and_environment_announce(tmp_path: Path, simulator: Simulator) -> None:
    """Empty URLs, but the project and the environment of our datafile: the revision is the target until the CDN serves it."""
    settings: dict[str, Any] = {"url_template": simulator.template, "webhook_secrets": SECRET, "poll_interval_s": 3600}
    async with RunningSidecar(tmp_path, sdk_keys=KEY, **settings) as sidecar:
        body = webhook_body(43, project_id=1234, origin_url="", cdn_url="", environment="Production")
        assert await post(sidecar.webhook_url, body) == 202
        await sidecar.logged("webhook.accepted", revision=43, environment="Production")
        assert (await sidecar.status())["keys"][KEY]["target_revision"] == 43
        simulator.put(KEY, minimal(43))
        await until(tmp_path, 43)
        old = webhook_body(42, project_id=1234, origin_url="", cdn_url="", environment="Production")
        assert await post(sidecar.webhook_url, old) == 200
        staging = webhook_body(900, project_id=1234, origin_url="", cdn_url="", environment="Staging")
        assert await post(sidecar.webhook_url, staging) == 202
        assert (await sidecar.status())["keys"][KEY]["target_revision"] == 43


async def test_a_byte_order_mark_is_no_part_of_a_secret(tmp_path: Path, simulator: Simulator) -> None:
    """A secret as PowerShell writes it verifies what Optimizely signs, in UTF-8 and in UTF-16, and the log names the file."""
    secrets = tmp_path / "secrets"
    mount(secrets, "1", {"a": b"\xef\xbb\xbfsecret-a\r\n", "b": "\ufeffsecret-b\r\n".encode("utf-16-le")})
    settings: dict[str, Any] = {"url_template": simulator.template, "webhook_secrets_path": secrets}
    async with RunningSidecar(
        tmp_path / "volume", sdk_keys=KEY, webhook_secrets=f"\ufeff{SECRET}", **settings
    ) as sidecar:
        for number, secret in enumerate(("secret-a", "secret-b", SECRET)):
            body = webhook_body(43 + number, cdn_url=simulator.template.format(sdk_key=KEY))
            assert await post(sidecar.webhook_url, body, secret) == 202
        for name in ("a", "b", "DATAFILE_WEBHOOK_SECRETS"):
            await sidecar.logged("secret.trimmed", name=name, reason="a byte order mark before a secret was removed")


async def test_a_poll_finds_what_no_webhook_announced(tmp_path: Path, simulator: Simulator) -> None:
    """A key without webhooks is kept fresh and counts none as missed; once one came, the next that is missing counts."""
    missed = f'datafile_sidecar_missed_webhooks_total{{sdk_key="{KEY}"}}'
    async with RunningSidecar(
        tmp_path, sdk_keys=KEY, url_template=simulator.template, webhook_secrets=SECRET, poll_interval_s=1
    ) as sidecar:
        simulator.put(KEY, minimal(43))
        await until(tmp_path, 43)
        assert (await sidecar.metrics())[missed] == 0
        simulator.webhook_urls = [sidecar.webhook_url]
        await simulator.publish(KEY, minimal(44))
        await until(tmp_path, 44)
        simulator.put(KEY, minimal(45))
        await until(tmp_path, 45)
        await sidecar.logged("webhook.missed", revision=45)
        assert (await sidecar.metrics())[missed] == 1


async def test_somebody_elses_directory_is_reported_not_crashed_on(tmp_path: Path, simulator: Simulator) -> None:
    """A directory that can't be written keeps the sidecar alive, unready and talking; once it can, all is well."""
    if os.geteuid() == 0:
        (tmp_path / f"{KEY}.json").mkdir()  # root may write anywhere: a directory in the file's place does the same
        mend = (tmp_path / f"{KEY}.json").rmdir
    else:
        tmp_path.chmod(0o555)
        mend = lambda: tmp_path.chmod(0o755)  # noqa: E731
    async with RunningSidecar(tmp_path, ready=False, sdk_keys=KEY, url_template=simulator.template) as sidecar:
        await sidecar.logged("publish.failed")
        status, text = await readiness(sidecar)
        assert status == 503
        assert str(tmp_path) in text
        mend()
        await until(tmp_path, 42)
        assert (await sidecar.metrics())[f'datafile_sidecar_publish_failures_total{{sdk_key="{KEY}"}}'] >= 1


@pytest.mark.parametrize("source", ["cdn", "origin"])
async def test_an_upstream_that_lags_by_five_seconds_is_chased(
    tmp_path: Path, simulator: Simulator, source: str
) -> None:
    """In real time: within a second of being served by either, the new revision is on disk, for fewer than 40 fetches in 6 s."""
    settings: dict[str, Any] = {"url_template": simulator.template, "webhook_secrets": SECRET, "poll_interval_s": 3600}
    async with RunningSidecar(tmp_path, sdk_keys=KEY, **settings) as sidecar:
        simulator.webhook_urls = [sidecar.webhook_url]
        simulator.cdn_lag_s, simulator.origin_lag_s = (5, 60) if source == "cdn" else (60, 5)
        simulator.requests.clear()
        begun, stopwatch, shown = time.monotonic(), Stopwatch(sidecar.pid), set()
        assert await simulator.publish(KEY, minimal(43)) == 202
        while revision(tmp_path) != 43 and stopwatch.seconds() < 8:
            status = (await sidecar.status())["keys"][KEY]
            shown.add((status["revision"], status["target_revision"]))
            await asyncio.sleep(0.05)
        assert time.monotonic() - begun >= 5
        assert stopwatch.seconds() <= 6.2
        assert (42, 43) in shown
        assert len([asked for asked in simulator.requests if asked.at - begun <= 6]) < 40
