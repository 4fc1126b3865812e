"""Screenshots of the page in headless Chromium: `python -m tests.page.shoot DIRECTORY` (or `make screenshots`).

Each state is served by the real admin app, at one moment in time, so that the pictures of two runs can be compared.
"""

import asyncio
import copy
import sys
import tempfile
from pathlib import Path
from typing import Any

from datafile_sidecar.admin.server import Admin
from datafile_sidecar.network.change_signal import ChangeSignal
from datafile_sidecar.network.server import bind, serving
from tests.page.browser import CHROMIUM, FLAGS

LOOKS = {
    "light": ["--window-size=1000,860"],
    "dark": ["--window-size=1000,860", "--force-dark-mode", "--blink-settings=preferredColorScheme=0"],
    "narrow": ["--window-size=500,1150"],
}


def _change(
    revision: int, minute: int, trigger: str, took_s: float | None, what: list[str] | None = None
) -> dict[str, Any]:
    return {
        "what": what,
        "revision": revision,
        "trigger": trigger,
        "published": f"2026-03-02T10:{minute:02}:00.000Z",
        "propagation_s": took_s,
    }


def _worker(number: int, revision: int) -> dict[str, Any]:
    return {
        "id": f"a1b2c3d{number}",
        "pid": 40 + number,
        "host": "shop-7d4b9c",
        "revision": revision,
        "sha256": "5f3c" * 4,
        "refused": None,
        "seen": "2026-03-02T10:41:00.120Z",
    }


HEALTHY: dict[str, Any] = {
    "version": "0.1.0",
    "pod": "shop-7d4b9c6f5-x2x8q",
    "now": "2026-03-02T10:41:30.000Z",
    "started": "2026-03-01T22:05:00.000Z",
    "ready": True,
    "keys": {
        "Wm3oPRODuction9xk": {
            "revision": 43,
            "target_revision": 43,
            "sha256": "5f3c" * 16,
            "size": 84_210,
            "trigger": "webhook",
            "generation": 0,
            "webhook": "2026-03-02T10:41:00.000Z",
            "fetched": "2026-03-02T10:41:00.060Z",
            "published": "2026-03-02T10:41:00.071Z",
            "checked": "2026-03-02T10:41:20.000Z",
            "changes": [
                _change(40, 2, "poll", None),
                _change(41, 17, "webhook", 0.044),
                _change(42, 33, "peer", 0.113, []),
                _change(
                    43,
                    41,
                    "webhook",
                    0.071,
                    [
                        "checkout: off for everyone",
                        "search: rule beta-testers: traffic 10 % → 50 %",
                        'audience "Gold customers": conditions changed (used by search, checkout and 12 more)',
                        "and 3 more",
                    ],
                ),
            ],
            "last_error": None,
            "workers": [_worker(1, 43), _worker(2, 43)],
        }
    },
    "webhooks": {
        "state": "on",
        "verified": "2026-03-02T10:41:00.000Z",
        "rejected": None,
        "delay_s": 2.4,
        "outcomes": {"accepted": 31, "ignored": 12},
        "last_error": None,
    },
    "workers": {"state": "on", "settled": True, "presence": "locks", "unreported": [], "last_error": None},
    "bus": {
        "state": "connected",
        "address": "rediss://bus.flags.svc:6380/0",
        "since": "2026-03-01T22:05:00.500Z",
        "last_error": None,
    },
    "peers": {
        "state": "on",
        "names": ["datafile-peers:8089"],
        "relayed": "2026-03-02T10:41:00.010Z",
        "outcomes": {"delivered": 11},
        "failing": [],
    },
}


def _state(ready: bool = True, ways: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    state = copy.deepcopy(HEALTHY) | {"ready": ready} | (ways or {})
    next(iter(state["keys"].values())).update(fields)
    return state


STATES = {
    "healthy": HEALTHY,
    "lagging": _state(target_revision=44, webhook="2026-03-02T10:41:24.000Z"),
    "out-of-reach": _state(
        target_revision=44,
        webhook="2026-03-02T10:41:24.000Z",
        last_error="https://cdn.optimizely.com/datafiles/Wm3oPRODuction9xk.json: no complete answer within 10 s",
    ),
    "outage": _state(
        checked="2026-03-02T09:12:00.000Z",
        last_error="https://cdn.optimizely.com/datafiles/Wm3oPRODuction9xk.json: no complete answer within 10 s",
    ),
    "nothing": _state(
        ready=False,
        ways={
            "workers": {"state": "on", "settled": False, "last_error": None},
            "webhooks": {"state": "off", "verified": None, "rejected": None, "outcomes": {}, "last_error": None},
        },
        revision=None,
        sha256=None,
        size=None,
        trigger=None,
        published=None,
        checked=None,
        fetched=None,
        webhook=None,
        changes=[],
        workers=[],
        target_revision=None,
        last_error="https://cdn.optimizely.com/datafiles/Wm3oPRODuction9xk.json: answered 403; look at the SDK key, "
        "its access token and DATAFILE_URL_TEMPLATE",
    ),
    "worker-behind": _state(workers=[_worker(1, 43), _worker(2, 42)]),
    "worker-refuses": _state(
        workers=[
            _worker(1, 43),
            _worker(2, 42) | {"refused": {"revision": 43, "reason": "the SDK does not support datafiles of version 5"}},
        ]
    ),
    "worker-silent": _state(
        ways={
            "workers": {
                "state": "on",
                "settled": True,
                "presence": "locks",
                "unreported": [{"id": "a1b2c3d3", "pid": 43}],
                "last_error": None,
            }
        }
    ),
    "workers-unknown": _state(
        ways={
            "workers": {
                "state": "on",
                "settled": True,
                "presence": "unknown",
                "unreported": [],
                "last_error": "the processes of this pod can't be listed: there are more than 256 locks",
            }
        }
    ),
    "other-bytes": _state(workers=[_worker(1, 43), _worker(2, 43) | {"sha256": "0123" * 4}]),
    "ways-down": _state(
        ways={
            "webhooks": {
                "state": "on",
                "verified": "2026-03-01T23:12:00.000Z",
                "rejected": "2026-03-02T10:41:26.000Z",
                "outcomes": {"accepted": 12, "unverified": 3},
                "last_error": "the signature is missing or wrong",
            },
            "bus": {
                "state": "disconnected",
                "address": "rediss://bus.flags.svc:6380/0",
                "since": None,
                "last_error": "rediss://bus.flags.svc:6380/0: no answer within 5 s",
            },
            "peers": {
                "state": "on",
                "names": ["datafile-peers:8089"],
                "relayed": "2026-03-02T10:41:00.010Z",
                "outcomes": {"delivered": 9, "timeout": 2},
                "failing": ["10.1.4.17:8089: timeout", "10.1.9.3:8089: timeout"],
            },
            "workers": {
                "state": "off",
                "settled": False,
                "last_error": "/var/run/datafile/sidecar.sock can't be listened on: Permission denied",
            },
        },
        workers=[],
    ),
}


async def shoot(target: Path) -> list[Path]:
    """Take a screenshot of every state in every look; return the pictures' paths. Needs Chromium."""
    if CHROMIUM is None:
        raise SystemExit("needs Chromium: apt-get install chromium")
    shown: dict[str, Any] = {}

    async def status() -> dict[str, Any]:
        return shown

    admin = Admin(list, dict, status, bytes, ChangeSignal())
    listener = bind("127.0.0.1", 0, "")
    pictures = []
    async with serving(admin.app(), listener):
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        for name, state in STATES.items():
            shown.clear()
            shown.update(state)
            for look, flags in LOOKS.items():
                pictures.append(await _photograph(url, target / f"{name}-{look}.png", flags))
    return pictures


async def _photograph(url: str, picture: Path, flags: list[str]) -> Path:
    with tempfile.TemporaryDirectory() as profile:
        command = [
            str(CHROMIUM),
            *FLAGS,
            "--virtual-time-budget=3000",
            *flags,
            f"--user-data-dir={profile}",
            f"--screenshot={picture}",
            url,
        ]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(60):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return picture


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for path in asyncio.run(shoot(directory)):
        print(path)
