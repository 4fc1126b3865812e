"""`datafile-sidecar status`: asks every sidecar what it and its workers decide by, shows it, and waits until all are up to date."""

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver
from yarl import URL

from datafile_sidecar.core import fleet_status as report
from datafile_sidecar.core.fleet_status import Answer, MalformedReportError
from datafile_sidecar.network.resolver import DaemonResolver, addresses

LATEST = "latest"

_ASK_S = 2.0
_MOST_AT_ONCE = 32
_MAX_BYTES = 4 * 1024 * 1024
_ROUND_S = 0.25
_FRESH_LINE = "\r\x1b[K"


@dataclass(frozen=True, slots=True)
class Places:
    """Whom to ask: `urls` of admin ports as they are, and whatever `names` resolve to, at `admin_port`."""

    urls: tuple[str, ...]
    names: tuple[str, ...] = ()
    admin_port: int = 0

    @classmethod
    def around(cls, host: str, port: int, names: Iterable[str]) -> "Places":
        """The sidecar that listens here, and its peers."""
        own = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        return cls((str(URL.build(scheme="http", host=own, port=port)),), tuple(dict.fromkeys(names)), port)


@dataclass(frozen=True, slots=True)
class Wish:
    """What to wait for: this revision or a newer one of this key, or LATEST, the newest that any sidecar knows of."""

    sdk_key: str
    revision: int | str
    workers_needed: bool = True

    def wanted(self, answers: Sequence[Answer]) -> int | None:
        """The revision, None where nobody knows of any."""
        return report.latest(answers, self.sdk_key) if isinstance(self.revision, str) else self.revision

    def lagging(self, answers: Sequence[Answer]) -> list[str]:
        """Who has not applied it, a sentence each."""
        wanted = self.wanted(answers)
        return report.lagging(answers, self.sdk_key, wanted, workers_needed=self.workers_needed)


class Fleet:
    """All sidecars that can be found, asked anew each time; names are resolved anew, too, for pods come and go."""

    def __init__(self, places: Places, resolver: AbstractResolver | None = None) -> None:
        self._places = places
        self._resolver = resolver or DaemonResolver()

    async def ask(self) -> list[Answer]:
        """What each says now, within seconds. One that doesn't, and a name that does not resolve, is an answer with a problem."""
        limit = asyncio.Semaphore(_MOST_AT_ONCE)
        async with _session() as session:
            found = await asyncio.gather(*(self._resolve(name) for name in self._places.names))
            unresolved = [answer for answers, _ in found for answer in answers]
            urls = dict.fromkeys((*self._places.urls, *(url for _, urls in found for url in urls)))
            answers = await asyncio.gather(*(_ask(session, limit, url) for url in urls))
        return [*report.once(answers), *unresolved]

    async def wait(
        self, wish: Wish, timeout_s: float, tell: Callable[[list[str]], None] = lambda _: None
    ) -> list[Answer]:
        """Ask until nobody lags or the time is over, once at least; the last answers. `tell` hears who lags after each round."""
        over_at = _now() + timeout_s
        while True:
            answers = await self.ask()
            lagging = wish.lagging(answers)
            if not lagging or _now() + _ROUND_S > over_at:
                return answers
            tell(lagging)
            await asyncio.sleep(_ROUND_S)

    async def _resolve(self, name: str) -> tuple[list[Answer], list[str]]:
        try:
            hosts = await addresses(self._resolver, name, _ASK_S)
        except OSError as problem:
            return [Answer(name, problem=f"the name does not resolve: {_words(problem)}")], []
        return [], [str(URL.build(scheme="http", host=host, port=self._places.admin_port)) for host in hosts]


async def show(places: Places, wish: Wish | None, sdk_key: str | None, timeout_s: float, in_json: bool) -> int:
    """Ask, wait if there is a wish, and print; the exit status: 0 nobody lags, or without a wish all have answered."""
    fleet = Fleet(places)
    if wish is None:
        answers = await fleet.ask()
    elif sys.stderr.isatty():
        answers = await fleet.wait(wish, timeout_s, _show_progress)
        sys.stderr.write(_FRESH_LINE)
    else:
        answers = await fleet.wait(wish, timeout_s)
    print(as_json(answers, wish) if in_json else as_text(answers, wish, sdk_key))  # noqa: T201
    return int(bool(wish.lagging(answers) if wish else any(answer.problem for answer in answers)))


def _show_progress(lagging: list[str]) -> None:
    """One line on the terminal, in the place of the one before."""
    more = f" (and {len(lagging) - 1} more)" if len(lagging) > 1 else ""
    words = f"waiting: {lagging[0]}"[: shutil.get_terminal_size().columns - len(more) - 1]
    sys.stderr.write(f"{_FRESH_LINE}{words}{more}")
    sys.stderr.flush()


def as_json(answers: Iterable[Answer], wish: Wish | None) -> str:
    """The same for programs: what each said, and who lags."""
    told = list(answers)
    waited: dict[str, Any] = {}
    if wish:
        waited = {"sdk_key": wish.sdk_key, "wanted_revision": wish.wanted(told), "lagging": wish.lagging(told)}
    return json.dumps({**waited, "sidecars": [_fields(answer) for answer in told]}, indent=2)


def as_text(answers: Sequence[Answer], wish: Wish | None, sdk_key: str | None) -> str:
    """The same for people: a table, and a sentence for each error and for each who lags."""
    lines = report.table(answers, sdk_key, time.time())
    if complaints := report.complaints(answers, sdk_key):
        lines += ["", "not well:", *(f"  {sentence}" for sentence in complaints)]
    if wish:
        wanted, lagging = wish.wanted(answers), wish.lagging(answers)
        which = "any revision" if wanted is None else f"revision {wanted}"
        lines += ["", f"not known to decide by {which}:" if lagging else f"all decide by {which} or newer"]
        lines += [f"  {sentence}" for sentence in lagging]
    return "\n".join(lines)


def _fields(answer: Answer) -> dict[str, Any]:
    return {"place": answer.place, "problem": answer.problem, "status": msgspec.to_builtins(answer.report)}


async def _ask(session: aiohttp.ClientSession, limit: asyncio.Semaphore, url: str) -> Answer:
    place = url.removeprefix("http://").rstrip("/")
    try:
        async with limit, session.get(f"{url.rstrip('/')}/status", allow_redirects=False) as answer:
            if answer.status != 200:
                return Answer(place, problem=f"it answers {answer.status}: is this a sidecar's admin port?")
            body = await _read(answer)
            return Answer(place, report.parse(body))
    except MalformedReportError as problem:
        return Answer(place, problem=report.printable(str(problem)))
    except (aiohttp.ClientError, OSError, ValueError) as problem:
        return Answer(place, problem=f"can't be asked: {_words(problem)}")


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > _MAX_BYTES:
            raise MalformedReportError(f"it answers with more than {_MAX_BYTES} bytes")
    return bytes(body)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True, resolver=DaemonResolver()),
        timeout=aiohttp.ClientTimeout(total=_ASK_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
    )


def _words(problem: Exception) -> str:
    if isinstance(problem, TimeoutError):
        return f"no answer within {_ASK_S:g} s"
    cause = problem.__cause__ if isinstance(problem.__cause__, OSError) else problem
    # What asyncio says of a refused connection holds the address a second time.
    reason = os.strerror(cause.errno) if isinstance(cause, ConnectionError) and cause.errno else None
    return report.printable(reason or getattr(cause, "strerror", None) or str(cause) or type(cause).__name__)


def _now() -> float:
    return asyncio.get_running_loop().time()
