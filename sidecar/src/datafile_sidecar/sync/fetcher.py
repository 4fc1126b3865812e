"""Fetching one key's datafile: which source is asked, on what condition, and which ones back off after a failure.

Times are those of the event loop.
"""

import asyncio
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from datafile_sidecar.core import backoff, datafile, url_policy
from datafile_sidecar.core.conditional import Validators
from datafile_sidecar.core.datafile import Datafile, InvalidDatafileError
from datafile_sidecar.core.schedule import Action
from datafile_sidecar.core.source_rotation import CDN, SourceRotation
from datafile_sidecar.core.state import State
from datafile_sidecar.network.turns import Capacity, Turn, Urgency
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.upstream import Fetched, FetchError, NotModified, Upstream

_TURN_S = 30.0
"""How long the loop of a key waits for its turn before it looks around, and waits on."""


@dataclass(frozen=True, slots=True)
class FetchResult:
    """A good answer: a datafile, or None for "not modified". `source` is a metric's label, `cdn` or `origin`."""

    datafile: Datafile | None
    source: str
    url: str
    validators: Validators | None


@dataclass(eq=False, slots=True)
class Fetcher:
    """Fetches one key's datafile from the CDN and from the URLs that webhooks name, one at a time.

    Args:
        source: Gives the upstream to ask now, and the access token.
        capacity: What all keys share. Fetch only in turn (see `until_turn`).
    """

    sdk_key: str
    source: Callable[[], tuple[Upstream, str | None]]
    poll_interval_s: float
    random: Random
    telemetry: Telemetry
    capacity: Capacity = field(default_factory=Capacity)
    _meanwhile: Callable[[], None] = field(default=lambda: None, init=False)
    _turn: Turn = field(default_factory=Turn, init=False)
    _large: Turn | None = field(default=None, init=False)
    _rotation: SourceRotation = field(default_factory=SourceRotation, init=False)
    _backoff_ends: int = field(default=0, init=False)
    _validators: dict[str, Validators] = field(default_factory=dict, init=False)
    _tried_without: set[str] = field(default_factory=set, init=False)

    # When it is this key's turn

    def until_turn(self, at: float, action: Action, state: State, on_turn: Callable[[], None]) -> float:
        """Return for how many seconds the loop waits for its next action; 0 or less means that it may begin.

        A fetch waits for the turn of this key, which lasts until the loop has nothing more to do.

        Args:
            at: When the action is due.
            action: What the loop does next.
            state: What is known of the key.
            on_turn: Called when the turn comes.
        """
        if (wait_s := at - _now()) > 0:
            self.end_turn()
        elif action is not Action.ADMIT and not self.capacity.fetches.ask(self._turn, Urgency.of(state), on_turn):
            return _TURN_S
        return wait_s

    def end_turn(self) -> None:
        """Let other keys fetch."""
        self.capacity.fetches.end(self._turn)
        if self._large is not None:
            self.capacity.large_bodies.end(self._large)
            self._large = None

    async def _take_large(self) -> None:
        self._large = self._large or await self.capacity.large_bodies.take(self._turn.urgency, self._meanwhile)

    # Which source is asked

    def add_urls(self, urls: Iterable[str]) -> None:
        """Let those URLs of a webhook that are permitted take turns with the CDN."""
        upstream, _ = self.source()
        self._rotation.add(url for url in urls if url != self._cdn_url and upstream.permitted(url, self.sdk_key))

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

    async def fetch(
        self, *, is_announced: bool = False, meanwhile: Callable[[], None] = lambda: None
    ) -> FetchResult | None:
        """Ask the source whose turn it is.

        Args:
            is_announced: Something newer is announced. Then "not modified" is believed only of an ETag that has been tried
                without: a Last-Modified of whole seconds can stand for two revisions. And a source that refuses us pauses
                like one that fails.
            meanwhile: Called now and then while the fetch waits for other keys.

        Returns:
            The answer, None while all sources back off.

        Raises:
            FetchError: No valid datafile came. The source backs off.
        """
        self._meanwhile = meanwhile
        place = self._rotation.take(_now())
        if place is None:
            return None
        upstream, token = self.source()
        url = upstream.url(self.sdk_key) if place == CDN else place
        started, ends = _now(), self._backoff_ends
        try:
            validators = self._conditions(url, is_announced=is_announced)
            answer = await upstream.fetch(
                url, sdk_key=self.sdk_key, validators=validators, token=token, on_large=self._take_large
            )
            served, validators = await self._parsed(url, answer)
        except FetchError as error:
            self._failed(place, error, ends, is_announced=is_announced)
            raise
        self._rotation.succeeded(place)
        outcome = "ok" if served else "not_modified"
        self.telemetry.fetch_succeeded(self.sdk_key, _label(place), outcome, _now() - started)
        return FetchResult(served, _label(place), url, validators)

    # On what condition

    def remember(self, validators: Validators | None, *, replaced: bool, url: str | None = None) -> None:
        """Keep the validators of what is published now.

        Args:
            replaced: Whether those known so far belong to other bytes.
            url: Where the datafile came from; None means from the CDN to another pod.
        """
        if replaced:
            self._validators.clear()
        if validators:
            self._validators[url or self._cdn_url] = validators

    def _conditions(self, url: str, *, is_announced: bool) -> Validators | None:
        validators = self._validators.get(url)
        if not is_announced:
            self._tried_without.clear()
            return validators
        if validators is None or (validators.etag and url in self._tried_without):
            return validators
        self._tried_without.add(url)
        return None

    def forget_validators(self) -> None:
        """Make the next request unconditional."""
        self._validators.clear()

    @property
    def validators(self) -> Validators | None:
        """The CDN's validators of what is published."""
        return self._validators.get(self._cdn_url)

    @property
    def _cdn_url(self) -> str:
        upstream, _ = self.source()
        return upstream.url(self.sdk_key)

    async def _parsed(self, url: str, answer: Fetched | NotModified) -> tuple[Datafile | None, Validators | None]:
        if isinstance(answer, NotModified):
            return None, None
        try:
            parse = functools.partial(asyncio.to_thread, datafile.parse, answer.body, self.sdk_key)
            return await self.capacity.validations.run(self._turn.urgency, parse, self._meanwhile), answer.validators
        except InvalidDatafileError as error:
            raise FetchError("invalid", f"{url_policy.without_query(url)} served no valid datafile: {error}") from error

    def _failed(self, place: str, error: FetchError, ends: int, *, is_announced: bool) -> None:
        failures = self._rotation.failed(place)
        if error.outcome in {"client_error", "throttled"} and not is_announced:
            wait_s = backoff.refusal_pause(self.poll_interval_s, error.retry_after_s)
        else:
            wait_s = backoff.failure_pause(failures, self.random.random())
        if self._backoff_ends == ends:
            self._rotation.back_off(place, _now() + wait_s)
        self.telemetry.fetch_failed(self.sdk_key, _label(place), error.outcome, error.reason, wait_s)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _label(place: str) -> str:
    return "cdn" if place == CDN else "origin"
