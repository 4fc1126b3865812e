"""Which source of a datafile is asked next: the CDN, and the URLs that webhooks named.

Times are seconds of one monotonic clock, handed in.
"""

from collections.abc import Iterable
from dataclasses import dataclass

CDN = "cdn"
"""Stands for the configured URL, which may change with the access token."""
_MAX_SOURCES = 4


@dataclass(slots=True)
class _Source:
    failures: int = 0
    backs_off_until: float = 0.0


class SourceRotation:
    """The sources of one SDK key in turn. A source that failed backs off for a while."""

    def __init__(self) -> None:
        """Begin with the CDN alone, which always stays."""
        self._sources = {CDN: _Source()}

    def add(self, urls: Iterable[str]) -> None:
        """Let these URLs take turns with the CDN; new ones come first."""
        queue = {url: _Source() for url in urls if url not in self._sources} | self._sources
        too_many = [url for url in queue if url != CDN][_MAX_SOURCES - 1 :]
        self._sources = {url: source for url, source in queue.items() if url not in too_many}

    def only_cdn(self) -> None:
        """Forget the URLs that webhooks named."""
        self._sources = {CDN: self._sources[CDN]}

    def take(self, now: float) -> str | None:
        """Return the URL to ask now (or `CDN`), which then goes to the end of the queue; None while all back off."""
        for url, source in self._sources.items():
            if source.backs_off_until <= now:
                self._sources[url] = self._sources.pop(url)
                return url
        return None

    def available_at(self) -> float:
        """Return when the first of them may be asked."""
        return min(source.backs_off_until for source in self._sources.values())

    def failed(self, url: str) -> int:
        """Count a failure; return how many there were in a row."""
        source = self._find(url)
        source.failures += 1
        return source.failures

    def back_off(self, url: str, until: float) -> None:
        """Don't ask this URL before that time."""
        self._find(url).backs_off_until = until

    def succeeded(self, url: str) -> None:
        """Note a good answer."""
        self._find(url).failures = 0

    def end_backoff(self) -> None:
        """Let all sources be asked again at once."""
        for source in self._sources.values():
            source.backs_off_until = 0.0

    def _find(self, url: str) -> _Source:
        """Return the source, or a new one where it is forgotten already."""
        return self._sources.get(url) or _Source()
