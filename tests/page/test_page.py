"""The page at `/`, in a real browser: what it shows, that text from outside stays text, and that it refreshes itself."""

import copy
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from datafile_sidecar.admin.server import Admin
from datafile_sidecar.network.change_signal import ChangeSignal
from datafile_sidecar.network.server import bind, serving
from tests.page.browser import CHROMIUM, Tab, browsing
from tests.page.shoot import HEALTHY, STATES

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]
KEY = "Wm3oPRODuction9xk"
HOSTILE = (
    "<img src=x onerror=\"window.owned='img'\">",
    "</script><script>window.owned='script'</script>",
    "<svg/onload=window.owned='svg'>",
    "javascript:window.owned='url'",
    '"><iframe srcdoc="<script>parent.owned=1</script>">',
    "\u202eevil\u0000\ud800",
)


class Served:
    """A page whose sidecar's status the test sets."""

    def __init__(self) -> None:
        self.status: dict[str, Any] = copy.deepcopy(HEALTHY)
        self.url = ""
        self.stop = AsyncExitStack()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    page = Served()
    listener = bind("127.0.0.1", 0, "")
    page.url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    async with page.stop:

        async def status() -> dict[str, Any]:
            return page.status

        admin = Admin(list, dict, status, lambda: b"", ChangeSignal())
        await page.stop.enter_async_context(serving(admin.app(), listener))
        yield page


@pytest.fixture
async def tab(served: Served) -> AsyncIterator[Tab]:
    async with browsing(served.url) as tab:
        yield tab


async def test_healthy(tab: Tab) -> None:
    """The page shows pod, key, revision, ages, changes, workers, bus and peers; and the browser logs no error."""
    text = await tab.see("up to date")
    for words in (
        "shop-7d4b9c6f5-x2x8q",
        KEY,
        "43",
        "10 s ago",
        "113 ms",
        "peer",
        "a1b2c3d2",
        "connected",
        "11 delivered",
        "up for 13 h",
        "checkout: off for everyone",
        "search: rule beta-testers: traffic 10 % → 50 %",
        "received 2 s after it was saved in Optimizely",
    ):
        assert words in text
    assert tab.complaints == []


async def test_states(served: Served, tab: Tab) -> None:
    """Each problem has a label and a sentence that says what it means for the app."""
    expected = {
        "lagging": ("upstream does not serve it yet", "waiting for 44", "The app uses revision 43"),
        "out-of-reach": ("the reason is below", "waiting for 44", "no complete answer within 10 s"),
        "outage": ("not confirmed", "Upstream last confirmed it 90 min ago", "no complete answer within 10 s"),
        "nothing": ("no datafile", "not ready", "answered 403", "this can take 10 s", "No webhook secret"),
        "worker-behind": ("worker behind", "1 worker of 2 does not use revision 43"),
        "worker-refuses": ("worker can't use it", "Process 42 on shop-7d4b9c can't use revision 43", "of version 5"),
        "worker-silent": ("worker silent", "1 process of this pod lives and does not report", "a1b2c3d3", "no report"),
        "workers-unknown": ("Workers may be missing here", "there are more than 256 locks"),
        "other-bytes": ("worker behind", "1 worker of 2 does not use revision 43"),
        "ways-down": (
            "disconnected",
            "12 accepted, 3 unverified",
            "Rejected 4 s ago: the signature is missing or wrong",
            "no answer within 5 s",
            "Not reached: 10.1.4.17:8089",
            "Workers can't report their revisions",
        ),
    }
    assert set(expected) == set(STATES) - {"healthy"}
    for name, words in expected.items():
        served.status = STATES[name]
        text = await tab.see(words[0])
        assert [one for one in words if one not in text] == [], name
    assert tab.complaints == []


async def test_text_from_outside(served: Served, tab: Tab) -> None:
    """Markup in what workers, upstream, brokers or peers say is shown as it came, and does nothing."""
    await tab.see("up to date")
    [key] = served.status["keys"].values()
    key["workers"] = [{**key["workers"][0], "id": text, "host": text, "revision": 42} for text in HOSTILE]
    key["workers"][0]["refused"] = {"revision": 43, "reason": HOSTILE[0]}
    served.status["workers"]["unreported"] = [{"id": HOSTILE[1], "pid": HOSTILE[2]}]
    key["last_error"] = " ".join(HOSTILE)
    key["changes"][0]["trigger"] = HOSTILE[0]
    key["changes"][-1]["what"] = list(HOSTILE)
    key["trigger"] = HOSTILE[1]
    served.status["bus"] = {"state": HOSTILE[0], "address": HOSTILE[1], "last_error": HOSTILE[2]}
    served.status["peers"] |= {"names": list(HOSTILE), "failing": list(HOSTILE), "outcomes": {HOSTILE[0]: 1}}
    served.status["webhooks"] |= {"outcomes": {HOSTILE[0]: 1}, "rejected": HOSTILE[1], "last_error": HOSTILE[2]}
    served.status["pod"] = served.status["version"] = HOSTILE[1]
    text = await tab.see(HOSTILE[0])
    for hostile in HOSTILE[:5]:
        assert hostile in text
    assert await tab.run("document.querySelectorAll('img, svg, iframe, #keys script').length") == 0
    assert await tab.run("typeof window.owned") == "undefined"
    assert await tab.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert tab.complaints == []


ATTACKS = (
    "const s = document.createElement('script'); s.textContent = 'window.owned = 1'; document.body.append(s)",
    "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.owned = 1\">')",
    "document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">')",
    "fetch('http://127.0.0.2:9/stolen').catch(() => 0)",
    "const l = document.createElement('link'); l.rel = 'stylesheet'; l.href = '/x.css'; document.head.append(l)",
)


async def test_policy(tab: Tab) -> None:
    """If markup ever got in, the browser would refuse to run it, to load anything, and to send anything elsewhere."""
    await tab.see("up to date")
    for attack in ATTACKS:
        await tab.run(
            "window.refused = new Promise(done => document.addEventListener('securitypolicyviolation', done, {once: true})); 1"
        )
        await tab.run(f"{{ {attack} }}; 1")
        refused = "Promise.race([window.refused.then(() => true), new Promise(done => setTimeout(done, 5000))])"
        assert await tab.run(refused), attack
        assert await tab.run("typeof window.owned") == "undefined"


async def test_refreshes_itself(served: Served, tab: Tab) -> None:
    """A change shows within seconds by itself, and so does a sidecar that no longer answers."""
    await tab.see("up to date")
    served.status["keys"][KEY] |= {"revision": 77, "target_revision": 77}
    await tab.see("77")
    assert await tab.run("document.title") == "shop-7d4b9c6f5-x2x8q – datafile-sidecar"
    served.status["ready"] = False
    await tab.see("not ready")
    assert str(await tab.run("document.title")).startswith("! ")
    await served.stop.aclose()
    text = await tab.see("no answer")
    assert "this page is out of date" in text


async def test_selection_stays(served: Served, tab: Tab) -> None:
    """Text that is selected, to copy an error, survives the next refresh."""
    served.status = copy.deepcopy(STATES["outage"])
    await tab.see("no complete answer")
    await tab.run("getSelection().selectAllChildren(document.querySelector('.note + .soft'))")
    served.status["keys"][KEY]["revision"] = 99
    await tab.see("paused while text is selected")
    assert "no complete answer within 10 s" in str(await tab.run("getSelection().toString()"))
    await tab.run("getSelection().removeAllRanges()")
    await tab.see("99")


_SHOWN = "[...document.querySelectorAll('.below')].filter(row => !row.hidden).map(row => row.innerText.trim())"
_CLICK = "document.querySelectorAll('.opens')[{}].click()"


async def test_what_changed(served: Served, tab: Tab) -> None:
    """The newest change is open, each other opens at a click, and what a person opened or closed stays so."""
    await tab.see("up to date")
    assert [len(one.splitlines()) for one in await tab.run(_SHOWN)] == [4]
    for number in (0, 1, 2):
        await tab.run(_CLICK.format(number))
    expected = ["Nothing that changes a decision.", "Not compared with the one before."]
    assert await tab.run(_SHOWN) == expected
    assert await tab.run("document.querySelectorAll('[aria-expanded=true]').length") == 2
    newest = {**served.status["keys"][KEY]["changes"][-1], "revision": 44, "published": "2026-03-02T10:41:29.000Z"}
    served.status["keys"][KEY]["changes"].append(newest | {"what": ["banner: removed"]})
    await tab.see("banner: removed")
    assert await tab.run(_SHOWN) == ["banner: removed", *expected]
    assert tab.complaints == []
