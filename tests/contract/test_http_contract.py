"""What both ports answer is what docs/contract.md says."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from datafile_sidecar.cli.simulator import Simulator, webhook_body
from datafile_sidecar.core.webhook import signature
from tests import datafiles
from tests.contract.generated import ROOT
from tests.running import RunningSidecar

KEY = "KEY1"
SECRET = b"test-secret-1"
_CONTRACT = (ROOT / "docs/contract.md").read_text()


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """Optimizely, serving revision 42."""
    async with Simulator({KEY: datafiles.minimal(42)}, secret=SECRET) as running:
        yield running


@pytest.fixture
async def sidecar(simulator: Simulator, tmp_path: Path) -> AsyncIterator[RunningSidecar]:
    """A sidecar that has published revision 42 and takes webhooks."""
    async with RunningSidecar(
        tmp_path / "volume", sdk_keys=KEY, url_template=simulator.template, webhook_secrets=SECRET.decode()
    ) as running:
        simulator.webhook_urls = [running.webhook_url]
        yield running


def _shape(value: Any) -> Any:
    """The keys of an object, in order, and the kinds of its values; None fits everything."""
    if isinstance(value, dict):
        return [(name, _shape(inner)) for name, inner in value.items()]
    return type(value)


def _documented_answers() -> set[int]:
    section = _CONTRACT.partition("## The webhook port")[2].partition("##")[0]
    return {int(status) for status in re.findall(r"^\| (\d{3}) \|", section, re.MULTILINE)}


async def test_status_is_as_documented(simulator: Simulator, sidecar: RunningSidecar) -> None:
    """`/status` has the fields of the example in the contract, in its order, each of the same kind."""
    await simulator.publish(KEY, datafiles.minimal(43))
    async with asyncio.timeout(10):
        while (status := await sidecar.status())["keys"][KEY]["revision"] != 43:
            await asyncio.sleep(0.01)
    status["keys"] = {"my-key": status["keys"][KEY]}
    example = json.loads(_CONTRACT.partition("```json\n")[2].partition("```")[0])
    assert _shape(status) == _shape(example)


async def test_every_answer_is_documented(sidecar: RunningSidecar, tmp_path: Path) -> None:
    """Each answer that the contract lists can be got from the webhook port, and the walk through all of them gives no other."""
    news, old = webhook_body(43, cdn_url=f"/datafiles/{KEY}.json"), webhook_body(1)
    other = webhook_body(1, event="project.flag_updated")
    url = sidecar.webhook_url
    requests: dict[int, tuple[str, str, bytes, bytes | None]] = {
        202: ("POST", url, news, SECRET),
        200: ("POST", url, other, SECRET),
        400: ("POST", url, b"[]", SECRET),
        401: ("POST", url, old, None),
        404: ("POST", url + "/more", old, SECRET),
        405: ("GET", url, b"", None),
        413: ("POST", url, b"x" * (64 * 1024 + 1), SECRET),
    }
    async with ClientSession() as session:
        late = asyncio.create_task(_slow_answer(session, url))
        seen = {expected: await _answer(session, *request) for expected, request in requests.items()}
        async with RunningSidecar(
            tmp_path / "other", ready=False, sdk_keys=KEY, url_template="http://127.0.0.1:9/{sdk_key}.json"
        ) as without_secret:
            seen[503] = await _answer(session, "POST", without_secret.webhook_url, news, SECRET)
        seen[417] = await _answer(session, "POST", url, old, SECRET, Expect="the unexpected")
        many = {f"X-Much-{number}": "x" * 7000 for number in range(5)}
        seen[431] = await _answer(session, "POST", url, old, SECRET, **many)
        seen[408] = await late
    assert seen == {status: status for status in seen}
    assert set(seen) == _documented_answers()


async def test_admin_paths_are_there(sidecar: RunningSidecar) -> None:
    """Each path that the contract lists for the admin port answers 200 on a healthy sidecar."""
    paths = re.findall(r"^\| `(/\w+)` \|", _CONTRACT, re.MULTILINE)
    async with ClientSession() as session:
        answers = {path: await _answer(session, "GET", sidecar.admin_url + path, b"", None) for path in paths}
    assert answers == dict.fromkeys(("/livez", "/readyz", "/metrics", "/status"), 200)


async def _answer(
    session: ClientSession, method: str, url: str, body: bytes, secret: bytes | None, **headers: str
) -> int:
    signed = {"X-Hub-Signature": signature(body, secret)} if secret else {}
    async with session.request(method, url, data=body, headers=headers | signed) as answer:
        return answer.status


async def _slow_answer(session: ClientSession, url: str) -> int:
    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(20)

    async with session.post(url, data=body()) as answer:
        return answer.status
