"""Asking for one key's datafile: whose turn it is, on what condition, what came of it, and who rests after a failure.

Times are those of the event loop.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from datafile_sidecar.core import backoff, datafile
from datafile_sidecar.core.datafile import Datafile, InvalidDatafileError
from datafile_sidecar.core.source_rotation import CDN, Turns
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.upstream import Fetched, FetchError, Upstream, Validators


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer: a datafile, or None where what the validators stand for is served still. `source` is a metric's label."""

    found: Datafile | None
    source: str
    url: str
    validators: Validators | None


class Inquiry:
    """The CDN and the URLs that webhooks name, asked one at a time for one SDK key."""

    def __init__(
        self,
        sdk_key: str,
        *,
        source: Callable[[], tuple[Upstream, str | None]],
        poll_interval_s: float,
        random: Random,
        telemetry: Telemetry,
    ) -> None:
        """`source` gives the upstream to ask now and the access token."""
        self._sdk_key = sdk_key
        self._source = source
        self._poll_interval_s = poll_interval_s
        self._random = random
        self._telemetry = telemetry
        self._turns = Turns()
        self._wakes = 0
        self._validators: dict[str, Validators] = {}

    def name(self, urls: Iterable[str]) -> None:
        """A webhook named these URLs: those that are permitted take turns with the CDN."""
        upstream, _ = self._source()
        own = upstream.url(self._sdk_key)
        self._turns.add(url for url in urls if url != own and upstream.permitted(url, self._sdk_key))

    def only_cdn(self) -> None:
        """Forget the URLs that webhooks named."""
        self._turns.only_cdn()

    def wake(self) -> None:
        """Let those be asked, too, that rest, and who is being asked now shall not rest for an answer that is out of date."""
        self._wakes += 1
        self._turns.wake()

    def available_at(self) -> float:
        """When there is somebody to ask."""
        return self._turns.available_at()

    async def ask(self) -> Answer | None:
        """Ask whose turn it is; None while all rest. Raises FetchError, after which that one rests."""
        place = self._turns.take(_now())
        if place is None:
            return None
        upstream, token = self._source()
        url = upstream.url(self._sdk_key) if place == CDN else place
        started, wakes = _now(), self._wakes
        try:
            answer = await upstream.fetch(url, sdk_key=self._sdk_key, validators=self._validators.get(url), token=token)
            found = await parsed(answer.body, self._sdk_key) if isinstance(answer, Fetched) else None
        except FetchError as error:
            self._failed(place, error, wakes)
            raise
        except InvalidDatafileError as error:
            invalid = FetchError("invalid", f"{url} served no valid datafile: {error}")
            self._failed(place, invalid, wakes)
            raise invalid from error
        self._turns.answered(place)
        outcome = "ok" if found else "not_modified"
        self._telemetry.fetch_succeeded(self._sdk_key, _label(place), outcome, _now() - started)
        return Answer(found, _label(place), url, answer.validators if isinstance(answer, Fetched) else None)

    # The conditions of the next request

    def remember(self, answer: Answer, *, replaced: bool) -> Validators | None:
        """What was answered is on the volume now, and what was there before is not, if `replaced`; its validators."""
        if replaced:
            self._validators.clear()
        if answer.validators:
            self._validators[answer.url] = answer.validators
        return self._validators.get(answer.url)

    def adopt(self, validators: Validators | None, *, replaced: bool) -> None:
        """Another pod's validators belong to what is on the volume."""
        if replaced:
            self._validators.clear()
        if validators:
            upstream, _ = self._source()
            self._validators[upstream.url(self._sdk_key)] = validators

    def forget(self) -> None:
        """Nothing is on the volume: ask for all of it."""
        self._validators.clear()

    @property
    def validators(self) -> Validators | None:
        """What the CDN said of the bytes that are on the volume."""
        upstream, _ = self._source()
        return self._validators.get(upstream.url(self._sdk_key))

    def _failed(self, place: str, error: FetchError, wakes: int) -> None:
        failures = self._turns.failed(place)
        if error.outcome in {"client_error", "throttled"}:
            wait_s = backoff.refusal_pause(self._poll_interval_s, error.retry_after_s)
        else:
            wait_s = backoff.failure_pause(failures, self._random.random())
        if self._wakes == wakes:
            self._turns.rest(place, _now() + wait_s)
        self._telemetry.fetch_failed(self._sdk_key, _label(place), error.outcome, error.reason, wait_s)


async def parsed(body: bytes, sdk_key: str) -> Datafile:
    """`core.datafile.parse`, beside the event loop."""
    return await asyncio.to_thread(datafile.parse, body, sdk_key)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _label(place: str) -> str:
    return "cdn" if place == CDN else "origin"
