"""What the page of one pod shows of a change that another pod heard of, by real processes."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from datafile_client.testing import make_datafile
from datafile_sidecar.cli.simulator import Simulator
from tests.page.browser import CHROMIUM, browsing
from tests.running import RunningSidecar

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]
KEY, SECRET = "KEY1", "test-secret-1"
_SHOWS = """new Promise(done => {
  const wait = () => document.body.innerText.includes("checkout: off for everyone") ? done(true) : setTimeout(wait, 5);
  wait();
})"""


async def test_kill_switch(tmp_path: Path) -> None:
    """Within a second of the webhook at one pod, the page of another says that the flag is off for everyone."""
    async with Simulator(
        {KEY: make_datafile({"checkout": True}, revision=1, sdk_key=KEY)}, secret=SECRET.encode()
    ) as optimizely:
        common: dict[str, Any] = {
            "sdk_keys": KEY,
            "webhook_secrets": SECRET,
            "url_template": optimizely.template,
            "poll_interval_s": 0,
        }
        async with RunningSidecar(tmp_path / "other", **common) as other:
            peer = other.webhook_url.split("/")[2]
            async with (
                RunningSidecar(tmp_path / "first", peers=peer, **common) as first,
                browsing(other.admin_url) as tab,
            ):
                optimizely.webhook_urls = [first.webhook_url]
                await tab.see("up to date")
                shown = asyncio.create_task(tab.run(_SHOWS))
                started = asyncio.get_running_loop().time()
                await optimizely.publish(KEY, make_datafile({"checkout": False}, revision=2, sdk_key=KEY))
                assert await shown is True
                took_s = asyncio.get_running_loop().time() - started
                assert tab.complaints == []
    assert took_s < 1, f"it took {took_s:.2f} s"
