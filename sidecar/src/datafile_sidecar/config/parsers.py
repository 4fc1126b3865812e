"""Parse the text of one environment variable. Every function raises ValueError with a message for the user."""

import contextlib
import math
import re
import urllib.parse
from pathlib import Path
from typing import NamedTuple

from datafile_sidecar.core.broker_url import BrokerUrl
from datafile_sidecar.core.url_policy import UrlPolicy

_MAX_SDK_KEY = 255 - len(".datafile-sidecar..status.json.tmp")
"""The longest file name that is made of a key may have 255 bytes, as on every common file system."""


class Address(NamedTuple):
    """An address to listen on. `host` is empty for all interfaces; port 0 lets the system pick one."""

    host: str
    port: int


def parse_sdk_keys(text: str) -> tuple[str, ...]:
    """Parse SDK keys, separated by commas. Duplicates are removed."""
    if not text.strip():
        # In Kubernetes the value is that of an annotation, which is empty where there is none.
        raise ValueError(
            "it is empty: list at least one SDK key; in Kubernetes, in the annotation datafile-sidecar/sdk-keys of the pod "
            "template (not of the Deployment)"
        )
    keys = dict.fromkeys(key.strip() for key in text.split(","))
    if problems := [problem for key in keys if (problem := _sdk_key_problem(key))]:
        raise ValueError("; ".join(problems))
    return tuple(keys)


def parse_secrets(text: str) -> tuple[bytes, ...]:
    """Parse webhook secrets, separated by commas, as bytes with any white space and byte order mark around them."""
    # A secret may contain any bytes; bytes that are not UTF-8 arrive as lone surrogates.
    secrets = tuple(item.encode("utf-8", "surrogateescape") for item in text.split(",") if item.strip().strip("\ufeff"))
    if not secrets:
        raise ValueError("it contains no secret: set the webhook's secret, or unset the variable to poll only")
    return secrets


def parse_path(text: str) -> Path:
    """Parse a path without white space around it."""
    if not text.strip():
        raise ValueError("it is empty: set a path, or unset the variable")
    return Path(text.strip())


def parse_seconds(text: str, *, minimum: float, zero_is_off: bool = False) -> float:
    """Parse a duration in seconds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{text.strip()[:40]!r} is not a number of seconds")
    if value < minimum and not (zero_is_off and value == 0):
        off = ", or 0 to turn it off" if zero_is_off else ""
        raise ValueError(f"{value:g} s is too short: set at least {minimum:g}{off}")
    return value


def parse_url_template(text: str) -> str:
    """Parse an http or https URL with `{sdk_key}` once in its path."""
    template = text.strip()
    if template.count("{sdk_key}") != 1:
        raise ValueError("the URL must contain {sdk_key} once, in place of the SDK key")
    parts = _split(template.replace("{sdk_key}", "KEY"))
    if parts is None or not template.isascii() or any(c.isspace() for c in template):
        raise ValueError("it is not an http or https URL")
    if parts.username or parts.password:
        raise ValueError(
            "the URL must not contain a user or password; put access tokens into DATAFILE_ACCESS_TOKENS_PATH"
        )
    if "{sdk_key}" not in template.partition("://")[2].partition("/")[2]:
        raise ValueError("{sdk_key} must be in the path of the URL")
    return UrlPolicy(template).template


def parse_address(text: str) -> Address:
    """Parse `:PORT`, `HOST:PORT` or `[IPV6]:PORT`."""
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    well_formed = bool(colon) and (":" in host) == bracketed and not any(c in "[]" or c.isspace() for c in host)
    if not well_formed or not (port.isascii() and port.isdecimal() and len(port) <= 5) or int(port) > 65535:
        raise ValueError(f"{text.strip()[:60]!r} is not an address: write :PORT, HOST:PORT or [IPV6]:PORT")
    return Address(host, int(port))


def parse_bus_url(text: str) -> str:
    """Parse the URL of a broker. No error quotes it, because it may contain a password."""
    BrokerUrl.parse(text)
    return text.strip()


def parse_peers(text: str) -> tuple[Address, ...]:
    """Parse hosts and ports, separated by commas. Duplicates are removed."""
    return tuple(dict.fromkeys(_parse_peer(item.strip()) for item in text.split(",")))


def _parse_peer(text: str) -> Address:
    with contextlib.suppress(ValueError):
        peer = parse_address(text)
        if peer.host and peer.port and "/" not in peer.host:
            return peer
    raise ValueError(f"{text[:60]!r} is not a peer: write HOST:PORT or [IPV6]:PORT, separated by commas")


def parse_choice(text: str, *, choices: tuple[str, ...]) -> str:
    """Parse one of the choices, in upper or lower case."""
    if (value := text.strip().lower()) not in choices:
        raise ValueError(f"{text.strip()[:40]!r} is not one of {', '.join(choices)}")
    return value


def _sdk_key_problem(key: str) -> str | None:
    if not key:
        return "an SDK key is empty: list at least one, separated by single commas"
    if key.lower() in {"undefined", "null", "none"}:
        return f"{key!r} is a placeholder for a missing value, not an SDK key"
    if not re.fullmatch(r"[A-Za-z0-9_-]+", key):
        return f"{key[:40]!r} is not an SDK key: use only letters, digits, '_' and '-'"
    if len(key) > _MAX_SDK_KEY:
        return f"{key[:40]!r}… has {len(key)} characters, and a file's name with an SDK key in it has room for {_MAX_SDK_KEY}"
    return None


def _split(url: str) -> urllib.parse.SplitResult | None:
    """Split an http or https URL. Returns None for anything else."""
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return parts
    return None
