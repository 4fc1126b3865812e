"""Whose turn it is to be asked: the sources of one SDK key, of which those that failed rest for a while.

Times are seconds of one monotonic clock, handed in.
"""

from collections.abc import Iterable
from dataclasses import dataclass

CDN = "cdn"
"""Stands for the configured URL, which may change with the access token."""
_MAX_SOURCES = 4


@dataclass(slots=True)
class _Source:
    url: str
    failures: int = 0
    rests_until: float = 0.0


class Turns:
    """The CDN, always, and the URLs that webhooks named, while they are wanted. The first of the list comes next."""

    def __init__(self) -> None:
        self._cdn = _Source(CDN)
        self._sources = [self._cdn]

    def add(self, urls: Iterable[str]) -> None:
        """Let these URLs take turns with the CDN; those that are new come first."""
        known = {source.url for source in self._sources}
        new = [_Source(url) for url in dict.fromkeys(urls) if url not in known]
        line = [*new, *self._sources]
        kept = [source for source in line if source is not self._cdn][: _MAX_SOURCES - 1]
        self._sources = [source for source in line if source is self._cdn or source in kept]

    def only_cdn(self) -> None:
        """Forget the URLs that webhooks named."""
        self._sources = [self._cdn]

    def take(self, now: float) -> str | None:
        """The URL to ask now (or `CDN`), which then goes to the end of the line; None while all rest."""
        for place, source in enumerate(self._sources):
            if source.rests_until <= now:
                self._sources.append(self._sources.pop(place))
                return source.url
        return None

    def available_at(self) -> float:
        """When the first of them has rested enough."""
        return min(source.rests_until for source in self._sources)

    def failed(self, url: str) -> int:
        """Note that this URL failed once more; how often it did so in a row."""
        source = self._find(url)
        source.failures += 1
        return source.failures

    def rest(self, url: str, until: float) -> None:
        """Don't ask this URL before that time."""
        self._find(url).rests_until = until

    def answered(self, url: str) -> None:
        """Note that this URL gave a good answer."""
        self._find(url).failures = 0

    def wake(self) -> None:
        """End all rests."""
        for source in self._sources:
            source.rests_until = 0.0

    def _find(self, url: str) -> _Source:
        """The source, or one that stands for it where it is forgotten already."""
        return next((source for source in self._sources if source.url == url), _Source(url))
