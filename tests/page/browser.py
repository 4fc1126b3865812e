"""Headless Chromium, controlled by its DevTools protocol: what it shows, runs, refuses and logs."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
_TIMEOUT_S = 20


class Tab:
    """One page that is open. `complaints` are what the browser logs: violations of the policy, uncaught errors."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.complaints: list[str] = []
        self._socket = socket
        self._count = 0

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._count += 1
        number = self._count
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(_TIMEOUT_S):
            while True:
                message = await self._socket.receive_json()
                if message.get("id") == number:
                    result: dict[str, Any] = message["result"]
                    return result
                self._note(message)

    async def run(self, expression: str) -> Any:
        """Evaluate a JavaScript expression in the page, await it if it is a promise, and return its value."""
        answer = await self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    async def see(self, expected: str) -> str:
        """Wait until the page shows a text; return all of its text."""
        text = ""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                while expected not in (text := str(await self.run("document.body.innerText"))):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise TimeoutError(f"{expected!r} does not appear in:\n{text}") from None
        return text

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message["params"]
        match message["method"]:
            case "Log.entryAdded":
                self.complaints.append(parameters["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.complaints.append(str(parameters["args"]))


@asynccontextmanager
async def browsing(url: str) -> AsyncIterator[Tab]:
    """Open a page; at the end the browser's process is killed."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            *(str(CHROMIUM), *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with ClientSession() as session:
                port = await _port(Path(profile))
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    target = next(one for one in await answer.json() if one["type"] == "page")
                async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    tab = Tab(socket)
                    for domain in ("Page", "Runtime", "Log"):
                        await tab.ask(f"{domain}.enable")
                    await tab.ask("Page.navigate", url=url)
                    yield tab
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _port(profile: Path) -> int:
    file = profile / "DevToolsActivePort"
    async with asyncio.timeout(_TIMEOUT_S):
        while not file.exists() or not (lines := file.read_text().splitlines()):
            await asyncio.sleep(0.05)
    return int(lines[0])
