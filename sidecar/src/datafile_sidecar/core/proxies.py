"""Which proxy a URL goes through, by the usual environment variables, as pure functions.

`https_proxy`, `http_proxy`, `all_proxy` and `no_proxy` mean what they mean to Python and curl: the lower-case name wins,
even when it is empty. `no_proxy` may also contain networks such as `10.0.0.0/8`, which is common in clusters.
"""

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


class ProxyError(ValueError):
    """A proxy variable that can't be used. The message names the variable, never its value, which may hold a password."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy. `url` holds no credentials and may be shown; `authorization` is the `Proxy-Authorization` header."""

    url: str
    authorization: str | None = field(default=None, repr=False)


class Proxies:
    """The proxies of an environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Read the variables. An invalid one is an error only when a URL needs it."""
        fallback = _variable(environ, "all_proxy")
        self._by_scheme = {scheme: _variable(environ, f"{scheme}_proxy", fallback) for scheme in _DEFAULT_PORTS}
        self._no_proxy = _variable(environ, "no_proxy").lower().replace(",", " ").split()

    def proxy_for(self, url: str) -> Proxy | None:
        """Return the proxy for this URL, or None for a direct connection.

        Raises:
            ProxyError: The variable for this URL can't be used.
        """
        target = urlsplit(url)
        setting = self._by_scheme.get(target.scheme)
        if not setting:
            return None
        host, port = (target.hostname or "").rstrip("."), target.port or _DEFAULT_PORTS[target.scheme]
        if any(_matches(entry, host, port) for entry in self._no_proxy):
            return None
        try:
            return _parse(setting)
        except ValueError:
            # Not chained: the original message quotes the setting, which may hold a password.
            variable = f"{target.scheme.upper()}_PROXY or ALL_PROXY"
            raise ProxyError(f"{variable} does not hold an http:// or https:// URL") from None


def _variable(environ: Mapping[str, str], name: str, default: str = "") -> str:
    return environ.get(name, environ.get(name.upper(), default)).strip()


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


def _matches(entry: str, host: str, port: int) -> bool:
    """Return whether an entry of no_proxy matches: `*`, a name with its subdomains, an address or network, each `:port`."""
    if entry == "*":
        return True
    if (network := _network(entry)) is not None:
        address = _network(host)
        return address is not None and address.version == network.version and address.network_address in network
    name, colon, entry_port = entry.rpartition(":")
    if colon:
        return entry_port == str(port) and _matches(name, host, port)
    suffix = entry.removeprefix("*").strip(".")
    return bool(suffix) and (host == suffix or host.endswith(f".{suffix}"))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text.removeprefix("[").removesuffix("]"), strict=False)
    except ValueError:
        return None
