"""Which proxy a URL goes through, from the environment's usual variables, as a decision without I/O.

`https_proxy`, `http_proxy`, `all_proxy` and `no_proxy` mean what they mean to Python and curl: the lower-case name wins,
even when it is empty. `no_proxy` also takes networks such as `10.0.0.0/8`, as people in clusters expect.
"""

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


class ProxyError(ValueError):
    """A proxy variable that can't be used. The words name the variable, never its value, which may hold a password."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy. `url` holds no credentials and may be shown; `authorization` is the `Proxy-Authorization` it wants."""

    url: str
    authorization: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies that an environment asks for. Build it with `from_environ`."""

    by_scheme: Mapping[str, str] = field(default_factory=dict, repr=False)
    bypass: tuple[str, ...] = ()

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Proxies":
        """Read the variables; nothing is judged before a URL needs it."""
        everywhere = _variable(environ, "all_proxy")
        chosen = {scheme: _variable(environ, f"{scheme}_proxy", everywhere) for scheme in _DEFAULT_PORTS}
        names = _variable(environ, "no_proxy").lower().replace(",", " ").split()
        return cls({scheme: url for scheme, url in chosen.items() if url}, tuple(names))

    def proxy_for(self, url: str) -> Proxy | None:
        """The proxy for this URL, or None to connect directly; ProxyError for a setting that we can't use."""
        target = urlsplit(url)
        setting = self.by_scheme.get(target.scheme)
        if setting is None or self._is_bypassed(target):
            return None
        try:
            return _parse(setting)
        except ValueError:
            # Not chained: the original's words quote the setting, password and all.
            raise ProxyError(f"{target.scheme.upper()}_PROXY or ALL_PROXY holds no http:// or https:// URL") from None

    def _is_bypassed(self, target: SplitResult) -> bool:
        host = (target.hostname or "").rstrip(".")
        port = target.port or _DEFAULT_PORTS[target.scheme]
        return any(_covers(entry, host, port) for entry in self.bypass)


def _variable(environ: Mapping[str, str], name: str, default: str = "") -> str:
    for spelling in (name, name.upper()):
        if spelling in environ:
            return environ[spelling].strip()
    return default


def _parse(setting: str) -> Proxy:
    parts = urlsplit(setting if "://" in setting else f"http://{setting}")
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError("not a usable proxy")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    address = f"{parts.scheme}://{host}:{parts.port or _DEFAULT_PORTS[parts.scheme]}"
    if parts.username is None:
        return Proxy(address)
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(address, f"Basic {base64.b64encode(credentials.encode()).decode()}")


def _covers(entry: str, host: str, port: int) -> bool:
    """Whether one item of no_proxy means this host: `*`, a name and all below it, an address or a network; `:port` narrows."""
    if entry == "*":
        return True
    if (network := _network(entry)) is not None:
        address = _network(host)
        return address is not None and address.version == network.version and address.network_address in network
    name, colon, wanted_port = entry.rpartition(":")
    if colon:
        return wanted_port == str(port) and _covers(name, host, port)
    suffix = entry.removeprefix("*").strip(".")
    return bool(suffix) and (host == suffix or host.endswith(f".{suffix}"))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text.removeprefix("[").removesuffix("]"), strict=False)
    except ValueError:
        return None
