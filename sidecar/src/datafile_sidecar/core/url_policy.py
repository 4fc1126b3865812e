"""Which URLs a datafile may be fetched from, as pure functions.

A webhook and a redirect both bring URLs from outside. Allowed are only Optimizely's own hosts over https and the origin
that the operator configured, and only for the SDK key in question. So a leaked webhook secret does not turn the sidecar
into a tool that fetches anything, and another environment's datafile does not arrive under this key.
"""

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import urljoin

PLACEHOLDER = "{sdk_key}"
OPTIMIZELY_HOSTS = frozenset({"cdn.optimizely.com", "config.optimizely.com", "optimizely.s3.amazonaws.com"})

_PUBLIC = "https://cdn.optimizely.com/datafiles/{sdk_key}.json"
_PRIVATE = "https://config.optimizely.com/datafiles/auth/{sdk_key}.json"
TEMPLATES = (_PUBLIC, _PRIVATE)
"""Where Optimizely serves datafiles: without and with an access token."""

_OPTIMIZELY_ORIGINS = {("https", host, 443) for host in OPTIMIZELY_HOSTS}
_DEFAULT_PORTS = {"http": 80, "https": 443}
# User information, percent signs, blanks and non-ASCII look-alikes never match.
_ORIGIN = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?(?=/)", re.IGNORECASE | re.ASCII)
# A segment starts with no dot, so ".", ".." and empty ones never match; nor do a query and a fragment.
_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+", re.ASCII)


def default_template(configured: str | None, *, has_token: bool) -> str:
    """Return the configured URL template, or else Optimizely's own for requests with or without an access token."""
    return configured or (_PRIVATE if has_token else _PUBLIC)


def origin(url: str) -> tuple[str, str, int] | None:
    """Return (scheme, host, port) in lower case, or None unless the URL is http(s) with a plain host and a path."""
    if not (match := _ORIGIN.match(url)):
        return None
    scheme, host, port = match.groups()
    return scheme.lower(), host.lower(), int(port) if port else _DEFAULT_PORTS[scheme.lower()]


def without_query(url: str) -> str:
    """Return the URL as it may be logged: the query of a mirror may carry a secret."""
    return url.partition("?")[0]


def identity(url: str) -> str:
    """Return a text that is the same for the same URL only, and shows no secret of its query: pods tell it to each other."""
    place, _, query = url.partition("?")
    return f"{place}?{hashlib.sha256(query.encode()).hexdigest()[:16]}" if query else place


def redirect_target(url: str, location: str) -> str:
    """Return the URL that a `Location` header on `url` points to, not checked against the policy."""
    try:
        return urljoin(url, location)
    except ValueError:
        return ""


def is_downgrade(url: str, target: str) -> bool:
    """Return whether going from `url` to `target` would leave https."""
    return url.lower().startswith("https:") and not target.lower().startswith("https:")


@dataclass(frozen=True, slots=True)
class UrlPolicy:
    """The configured URL template and what else may be fetched. Raises ValueError for an invalid template."""

    template: str

    def __post_init__(self) -> None:
        if PLACEHOLDER not in self.template:
            raise ValueError(f"the URL template does not contain {PLACEHOLDER}")
        if origin(self.url("key")) is None:
            raise ValueError("the URL template is not an http:// or https:// URL with a plain host and a path")

    def url(self, sdk_key: str) -> str:
        """Return the template's URL for this key."""
        return self.template.replace(PLACEHOLDER, sdk_key)

    def is_template_origin(self, url: str, sdk_key: str) -> bool:
        """Return whether the URL is on the template's own origin, the only one that may receive the access token."""
        return origin(url) == origin(self.url(sdk_key))

    def permits(self, url: str, sdk_key: str) -> bool:
        """Return whether this URL may be fetched for this key."""
        if url == self.url(sdk_key):
            return True
        if not (match := _ORIGIN.match(url)) or not _PATH.fullmatch(url, match.end()):
            return False
        allowed = self.is_template_origin(url, sdk_key) or origin(url) in _OPTIMIZELY_ORIGINS
        return allowed and url.endswith(f"/{sdk_key}.json")
