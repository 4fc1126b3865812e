"""Fetching one key's datafile: which source is asked, on what condition, and which ones back off after a failure.

Times are those of the event loop.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from datafile_sidecar.core import backoff, datafile
from datafile_sidecar.core.conditional import Validators
from datafile_sidecar.core.datafile import Datafile, InvalidDatafileError
from datafile_sidecar.core.source_rotation import CDN, SourceRotation
from datafile_sidecar.core.state import Version
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.upstream import Fetched, FetchError, Upstream


@dataclass(frozen=True, slots=True)
class FetchResult:
    """A good answer: a datafile, or None for "not modified". `source` is a metric's label, `cdn` or `origin`."""

    datafile: Datafile | None
    source: str
    url: str
    validators: Validators | None

    @property
    def version(self) -> Version | None:
        """What was served, None for "not modified"."""
        return Version(self.datafile.revision, self.datafile.sha256) if self.datafile else None


class Fetcher:
    """Fetches from the CDN and from the URLs that webhooks name, one at a time."""

    def __init__(
        self,
        sdk_key: str,
        *,
        source: Callable[[], tuple[Upstream, str | None]],
        poll_interval_s: float,
        random: Random,
        telemetry: Telemetry,
    ) -> None:
        """Build the fetcher of one key.

        Args:
            source: Gives the upstream to ask now, and the access token.
        """
        self._sdk_key = sdk_key
        self._source = source
        self._poll_interval_s = poll_interval_s
        self._random = random
        self._telemetry = telemetry
        self._rotation = SourceRotation()
        self._backoff_ends = 0
        self._validators: dict[str, Validators] = {}

    # Which source is asked

    def add_urls(self, urls: Iterable[str]) -> None:
        """Let those URLs of a webhook that are permitted take turns with the CDN."""
        upstream, _ = self._source()
        own = upstream.url(self._sdk_key)
        self._rotation.add(url for url in urls if url != own and upstream.permitted(url, self._sdk_key))

    def only_cdn(self) -> None:
        """Forget the URLs that webhooks named."""
        self._rotation.only_cdn()

    def end_backoff(self) -> None:
        """Let all sources be asked at once. An answer that is on its way now starts no new backoff: it may be out of date."""
        self._backoff_ends += 1
        self._rotation.end_backoff()

    def available_at(self) -> float:
        """Return when a source may be asked."""
        return self._rotation.available_at()

    async def fetch(self) -> FetchResult | None:
        """Ask the source whose turn it is.

        Returns:
            The answer, None while all sources back off.

        Raises:
            FetchError: No valid datafile came. The source backs off.
        """
        place = self._rotation.take(_now())
        if place is None:
            return None
        upstream, token = self._source()
        url = upstream.url(self._sdk_key) if place == CDN else place
        started, ends = _now(), self._backoff_ends
        try:
            answer = await upstream.fetch(url, sdk_key=self._sdk_key, validators=self._validators.get(url), token=token)
            served = await parse(answer.body, self._sdk_key) if isinstance(answer, Fetched) else None
        except FetchError as error:
            self._failed(place, error, ends)
            raise
        except InvalidDatafileError as error:
            invalid = FetchError("invalid", f"{url} served no valid datafile: {error}")
            self._failed(place, invalid, ends)
            raise invalid from error
        self._rotation.succeeded(place)
        self._telemetry.fetch_succeeded(
            self._sdk_key, _label(place), "ok" if served else "not_modified", _now() - started
        )
        return FetchResult(served, _label(place), url, answer.validators if isinstance(answer, Fetched) else None)

    # On what condition

    def remember(self, result: FetchResult, *, replaced: bool) -> None:
        """Keep the validators of what is published now. `replaced` tells that those known so far belong to other bytes."""
        self._keep(result.url, result.validators, replaced=replaced)

    def adopt(self, validators: Validators | None, *, replaced: bool) -> None:
        """Keep another pod's validators of what is published now."""
        upstream, _ = self._source()
        self._keep(upstream.url(self._sdk_key), validators, replaced=replaced)

    def forget_validators(self) -> None:
        """Make the next request unconditional."""
        self._validators.clear()

    @property
    def validators(self) -> Validators | None:
        """The CDN's validators of what is published."""
        upstream, _ = self._source()
        return self._validators.get(upstream.url(self._sdk_key))

    def _keep(self, url: str, validators: Validators | None, *, replaced: bool) -> None:
        if replaced:
            self._validators.clear()
        if validators:
            self._validators[url] = validators

    def _failed(self, place: str, error: FetchError, ends: int) -> None:
        failures = self._rotation.failed(place)
        if error.outcome in {"client_error", "throttled"}:
            wait_s = backoff.refusal_pause(self._poll_interval_s, error.retry_after_s)
        else:
            wait_s = backoff.failure_pause(failures, self._random.random())
        if self._backoff_ends == ends:
            self._rotation.back_off(place, _now() + wait_s)
        self._telemetry.fetch_failed(self._sdk_key, _label(place), error.outcome, error.reason, wait_s)


async def parse(body: bytes, sdk_key: str) -> Datafile:
    """Validate a datafile beside the event loop. Raises InvalidDatafileError."""
    return await asyncio.to_thread(datafile.parse, body, sdk_key)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _label(place: str) -> str:
    return "cdn" if place == CDN else "origin"
