"""Which URLs a datafile may be fetched from, as a decision without I/O.

A webhook and a redirect both bring URLs from outside. They are followed only to Optimizely's own hosts over https, or to
the origin that the operator configured, and only for the SDK key in question: a leaked webhook secret must not turn the
sidecar into a tool that fetches anything, and another environment's datafile must not arrive under our key.
"""

import re
from dataclasses import dataclass
from urllib.parse import urljoin

PLACEHOLDER = "{sdk_key}"
OPTIMIZELY_HOSTS = frozenset({"cdn.optimizely.com", "config.optimizely.com", "optimizely.s3.amazonaws.com"})

_PUBLIC = "https://cdn.optimizely.com/datafiles/{sdk_key}.json"
_PRIVATE = "https://config.optimizely.com/datafiles/auth/{sdk_key}.json"
TEMPLATES = (_PUBLIC, _PRIVATE)
"""Where Optimizely serves datafiles: to everybody, and to those who have an access token."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
# No user information fits in here, and no percent sign, blank or non-ASCII look-alike.
_ORIGIN = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?(?=/)", re.IGNORECASE | re.ASCII)
# A segment starts with no dot, so neither "." nor ".." nor an empty one passes; query and fragment don't either.
_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+", re.ASCII)

Origin = tuple[str, str, int]


def template(configured: str | None, *, has_token: bool) -> str:
    """The URL template that counts: the one that was configured, else the one of Optimizely's that suits the token."""
    return configured or (_PRIVATE if has_token else _PUBLIC)


def origin(url: str) -> Origin | None:
    """(scheme, host, port) in lower case, or None when the URL is not http(s) or hides something before its host."""
    if not (found := _ORIGIN.match(url)):
        return None
    scheme, host, port = found.groups()
    return scheme.lower(), host.lower(), int(port) if port else _DEFAULT_PORTS[scheme.lower()]


def shown(url: str) -> str:
    """The URL as it may stand in a log: without its query, where a mirror may carry a secret."""
    return url.partition("?")[0]


def redirect_target(url: str, location: str) -> str:
    """The URL that a `Location` header on `url` means; whatever it is, `permits` has to judge it."""
    try:
        return urljoin(url, location)
    except ValueError:
        return ""


def is_downgrade(url: str, target: str) -> bool:
    """Whether going from `url` to `target` would leave https."""
    return url.lower().startswith("https:") and not target.lower().startswith("https:")


@dataclass(frozen=True, slots=True)
class Sources:
    """The configured URL template and the rule of what else may be asked; ValueError for a template that is no URL."""

    template: str

    def __post_init__(self) -> None:
        if PLACEHOLDER not in self.template:
            raise ValueError(f"the URL template has no {PLACEHOLDER} in it")
        if origin(self.url("key")) is None:
            raise ValueError("the URL template is no http:// or https:// URL with a plain host and a path")

    def url(self, sdk_key: str) -> str:
        """The template's URL for this key: the CDN, unless configured otherwise."""
        return self.template.replace(PLACEHOLDER, sdk_key)

    def is_home(self, url: str, sdk_key: str) -> bool:
        """Whether the URL lies on the template's own origin: the only place that may see the access token."""
        return origin(url) == origin(self.url(sdk_key))

    def permits(self, url: str, sdk_key: str) -> bool:
        """Whether this URL may be asked for this key's datafile."""
        if url == self.url(sdk_key):
            return True
        if not (found := _ORIGIN.match(url)) or not _PATH.fullmatch(url, found.end()):
            return False
        return url.endswith(f"/{sdk_key}.json") and (self.is_home(url, sdk_key) or _is_optimizely(url))


def _is_optimizely(url: str) -> bool:
    match origin(url):
        case ("https", host, 443):
            return host in OPTIMIZELY_HOSTS
        case _:
            return False
