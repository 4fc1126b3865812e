"""The environment as one frozen value, or every problem with it at once. The documentation's table comes from `VARIABLES`."""

import difflib
import math
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datafile_sidecar.core.url_policy import UrlPolicy

PREFIX = "DATAFILE_"
_SDK_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_PLACEHOLDERS = {"undefined", "null", "none"}
_SERVICE_LINK = re.compile(r".+(_SERVICE_HOST|_SERVICE_PORT(_.+)?|_PORT_\d+_[A-Z]+(_(PROTO|PORT|ADDR))?)")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. `host` is empty for all interfaces; port 0 lets the system pick one."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the sidecar was told. Times are seconds; see `VARIABLES` for the meaning of each."""

    sdk_keys: tuple[str, ...]
    directory: Path = Path("/var/run/datafile")
    webhook_secrets_path: Path | None = None
    webhook_secrets: tuple[bytes, ...] = field(default=(), repr=False)
    """As they were written, with white space around them."""
    access_tokens_path: Path | None = None
    url_template: str | None = None
    poll_interval_s: float = 60.0
    bootstrap_dir: Path | None = None
    bootstrap_after_s: float = 5.0
    rollback_after_s: float = 900.0
    bus_url: str | None = field(default=None, repr=False)
    """With its password, if it has one."""
    peers: tuple[tuple[str, int], ...] = ()
    webhook_listen: Address = Address("", 8089)
    admin_listen: Address = Address("", 8088)
    log_level: str = "info"
    log_format: str | None = None


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of the environment: the field that it fills, how its text is read, and what it means, in Markdown."""

    name: str
    field: str
    read: Callable[[str], Any]
    default: str
    meaning: str


class SettingsError(ValueError):
    """The environment can't be used. `problems` holds one sentence for each thing to mend."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


def load(environ: Mapping[str, str]) -> Settings:
    """The settings in an environment. Raises SettingsError with every problem, in words."""
    values, problems = _read(VARIABLES, environ)
    if "DATAFILE_SDK_KEYS" not in environ:
        problems.insert(0, "DATAFILE_SDK_KEYS is not set: name the SDK keys of your environments, separated by commas")
    if problems:
        raise SettingsError(problems)
    return Settings(**values)


def secrets(environ: Mapping[str, str]) -> tuple[tuple[bytes, ...], Path | None]:
    """The webhook secrets alone, and where more are mounted, for commands that need no more. Raises SettingsError."""
    found = _some(environ, {"webhook_secrets": (), "webhook_secrets_path": None})
    return found["webhook_secrets"], found["webhook_secrets_path"]


def fleet(environ: Mapping[str, str]) -> tuple[tuple[str, ...], Address, tuple[str, ...]]:
    """What it takes to find the fleet: the SDK keys, where this sidecar can be asked, its peers' hosts. Raises SettingsError."""
    wanted: dict[str, Any] = {"sdk_keys": (), "admin_listen": Address("", 8088), "peers": ()}
    found = _some(environ, wanted)
    return found["sdk_keys"], found["admin_listen"], tuple(host for host, _ in found["peers"])


def unknown(environ: Mapping[str, str]) -> dict[str, str | None]:
    """Variables with our prefix that mean nothing here, each with the known name that is nearest, if one is near.

    What Kubernetes sets for a Service whose name begins like ours is no mistake of anybody's and left out.
    """
    known = [variable.name for variable in VARIABLES]
    ours = (name for name in environ if name.startswith(PREFIX) and name not in known)
    strange = (name for name in ours if not _is_service_link(name, environ[name]))
    return {name: next(iter(difflib.get_close_matches(name, known, n=1)), None) for name in sorted(strange)}


def _is_service_link(name: str, value: str) -> bool:
    # A name that merely ends in _PORT is told by its value, `tcp://…`: people write DATAFILE_ADMIN_PORT=8088, too.
    return bool(_SERVICE_LINK.fullmatch(name)) or (name.endswith("_PORT") and "://" in value)


def _read(variables: Iterable[Variable], environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {}
    problems = []
    for variable in variables:
        text = environ.get(variable.name)
        if text is None or (not text.strip() and variable.name not in _NEVER_EMPTY):
            continue
        try:
            values[variable.field] = variable.read(text)
        except ValueError as problem:
            problems.append(f"{variable.name}: {problem}")
    return values, problems


def _some(environ: Mapping[str, str], defaults: dict[str, Any]) -> dict[str, Any]:
    values, problems = _read([variable for variable in VARIABLES if variable.field in defaults], environ)
    if problems:
        raise SettingsError(problems)
    return defaults | values


def _sdk_keys(text: str) -> tuple[str, ...]:
    keys = tuple(dict.fromkeys(key.strip() for key in text.split(",")))
    if problems := [problem for key in keys if (problem := _wrong_with_sdk_key(key))]:
        raise ValueError("; ".join(problems))
    return keys


def _wrong_with_sdk_key(key: str) -> str | None:
    if not key:
        return "an SDK key is empty: name at least one, and put one comma between two"
    if key.lower() in _PLACEHOLDERS:
        return f"{key!r} is what a template leaves behind when its value is missing, not an SDK key"
    if not _SDK_KEY.fullmatch(key):
        return f"{key[:40]!r} is no SDK key: one consists of letters, digits, '_' and '-'"
    return None


def _secrets(text: str) -> tuple[bytes, ...]:
    # Any byte may stand in a secret; those that are no UTF-8 reach us as lone surrogates.
    secrets = tuple(item.encode("utf-8", "surrogateescape") for item in text.split(",") if item.strip())
    if not secrets:
        raise ValueError("it holds no secret: give the webhook's secret, or leave the variable out to poll only")
    return secrets


def _path(text: str) -> Path:
    if not text.strip():
        raise ValueError("it is empty: give a path, or leave the variable out")
    return Path(text.strip())


def _seconds(least: float, zero_is_off: bool = False) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{text.strip()[:40]!r} is no number of seconds")
        if value < least and not (zero_is_off and value == 0):
            raise ValueError(
                f"{value:g} s is too short: at least {least:g}" + (", or 0 to turn it off" if zero_is_off else "")
            )
        return value

    return read


def _url_template(text: str) -> str:
    template = text.strip()
    if template.count("{sdk_key}") != 1:
        raise ValueError("the URL must contain {sdk_key} once, where the SDK key goes")
    parts = _split(template.replace("{sdk_key}", "KEY"))
    if parts is None or not template.isascii() or any(c.isspace() for c in template):
        raise ValueError("it is no http or https URL")
    if parts.username or parts.password:
        raise ValueError("a URL must not hold a user or password; put access tokens into DATAFILE_ACCESS_TOKENS_PATH")
    if "{sdk_key}" not in template.partition("://")[2].partition("/")[2]:
        raise ValueError("{sdk_key} must stand in the URL's path")
    return UrlPolicy(template).template


def _split(url: str) -> urllib.parse.SplitResult | None:
    """The parts of an http or https URL, None where it is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if usable else None


def _address(text: str) -> Address:
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    well_formed = bool(colon) and (":" in host) == bracketed and not any(c in "[]" or c.isspace() for c in host)
    if not well_formed or not (port.isascii() and port.isdecimal() and len(port) <= 5) or int(port) > 65535:
        raise ValueError(f"{text.strip()[:60]!r} is no address: write :PORT, HOST:PORT or [IPV6]:PORT")
    return Address(host, int(port))


def _bus_url(text: str) -> str:
    """No error quotes the URL: it may hold a password."""
    url = text.strip()
    try:
        parts = urllib.parse.urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ValueError(
            "it is no URL; a user or password with other characters than letters and digits needs %XX"
        ) from None
    if parts.scheme not in {"redis", "rediss"} or not usable or any(c.isspace() for c in url):
        raise ValueError("it is no redis:// or rediss:// URL: write redis://user:password@host:port/database")
    if parts.query or parts.fragment or not re.fullmatch(r"(/[0-9]{0,4})?", parts.path, re.ASCII):
        raise ValueError(
            "after host and port, there may be the number of a database and nothing else; mask / ? # in a password as %XX"
        )
    return url


def _peers(text: str) -> tuple[tuple[str, int], ...]:
    peers = []
    for item in text.split(","):
        try:
            peer = _address(item)
        except ValueError:
            peer = Address("", 0)
        if not peer.host or not peer.port or "/" in peer.host:
            raise ValueError(
                f"{item.strip()[:60]!r} is no peer: write HOST:PORT or [IPV6]:PORT, with commas in between"
            )
        peers.append((peer.host, peer.port))
    return tuple(dict.fromkeys(peers))


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if (value := text.strip().lower()) not in choices:
            raise ValueError(f"{text.strip()[:40]!r} is not one of {', '.join(choices)}")
        return value

    return read


VARIABLES = (
    Variable("DATAFILE_SDK_KEYS", "sdk_keys", _sdk_keys, "required", "SDK keys, separated by commas"),
    Variable("DATAFILE_DIR", "directory", _path, "`/var/run/datafile`", "the directory to publish into"),
    Variable(
        "DATAFILE_WEBHOOK_SECRETS_PATH",
        "webhook_secrets_path",
        _path,
        "–",
        "a file, or a directory of files (a mounted Secret), one webhook secret each; read again while running, so that "
        "rotation and revocation need no restart",
    ),
    Variable(
        "DATAFILE_WEBHOOK_SECRETS",
        "webhook_secrets",
        _secrets,
        "–",
        "webhook secrets, separated by commas, for local use. With neither variable, the webhook endpoint answers 503",
    ),
    Variable(
        "DATAFILE_ACCESS_TOKENS_PATH",
        "access_tokens_path",
        _path,
        "–",
        "a directory with one file per SDK key, named like it: the datafile access token of a secure environment",
    ),
    Variable(
        "DATAFILE_URL_TEMPLATE",
        "url_template",
        _url_template,
        "Optimizely's CDN",
        "where datafiles are fetched; contains `{sdk_key}`. With a token, the default is the authenticated host",
    ),
    Variable(
        "DATAFILE_POLL_INTERVAL_S",
        "poll_interval_s",
        _seconds(1, zero_is_off=True),
        "`60`",
        "seconds between two polls, at least 1; 0 turns periodic polling off, failed fetches are retried all the same",
    ),
    Variable(
        "DATAFILE_BOOTSTRAP_DIR",
        "bootstrap_dir",
        _path,
        "–",
        "a directory with `<sdk_key>.json`, published when nothing better has come after `DATAFILE_BOOTSTRAP_AFTER_S`",
    ),
    Variable(
        "DATAFILE_BOOTSTRAP_AFTER_S",
        "bootstrap_after_s",
        _seconds(0),
        "`5`",
        "for how many seconds after its start the sidecar prefers to wait for something better",
    ),
    Variable(
        "DATAFILE_ROLLBACK_AFTER_S",
        "rollback_after_s",
        _seconds(0),
        "`900`",
        "for how many seconds upstream must insist on an older revision before it is believed",
    ),
    Variable(
        "DATAFILE_BUS_URL",
        "bus_url",
        _bus_url,
        "–",
        "a Redis or Valkey by which the sidecars of a fleet share datafiles and polls, `redis://` or, with TLS, `rediss://`, as "
        "`[user[:password]@]host[:port][/database]`. Needs the extra `redis`. Whoever can write to it can change flags",
    ),
    Variable(
        "DATAFILE_PEERS",
        "peers",
        _peers,
        "–",
        "the webhook ports of the other sidecars, `host:port`, separated by commas: names of headless Services, resolved "
        "anew for each webhook, or addresses. Each webhook is passed on to all of them",
    ),
    Variable(
        "DATAFILE_WEBHOOK_LISTEN",
        "webhook_listen",
        _address,
        "`:8089`",
        "where webhooks come in: `:PORT` (all interfaces), `HOST:PORT` or `[IPV6]:PORT`; port 0 picks one and logs it",
    ),
    Variable(
        "DATAFILE_ADMIN_LISTEN", "admin_listen", _address, "`:8088`", "where probes, metrics and status are served"
    ),
    Variable(
        "DATAFILE_LOG_LEVEL",
        "log_level",
        _one_of("debug", "info", "warning", "error"),
        "`info`",
        "`debug`, `info`, `warning` or `error`",
    ),
    Variable(
        "DATAFILE_LOG_FORMAT",
        "log_format",
        _one_of("console", "json"),
        "`console` on a terminal, else `json`",
        "`console` or `json`",
    ),
)

_NEVER_EMPTY = {"DATAFILE_SDK_KEYS", "DATAFILE_WEBHOOK_SECRETS", "DATAFILE_WEBHOOK_SECRETS_PATH"}
