"""The environment as one frozen value, or all problems with it at once. The tables in the docs come from `VARIABLES`."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datafile_sidecar.config import parsers

PREFIX = "DATAFILE_"
_SERVICE_LINK = re.compile(r".+(_SERVICE_HOST|_SERVICE_PORT(_.+)?|_PORT_\d+_[A-Z]+(_(PROTO|PORT|ADDR))?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The configuration of a sidecar. Times are seconds; `VARIABLES` has the meaning of each field."""

    sdk_keys: tuple[str, ...]
    dir: Path = Path("/var/run/datafile")
    webhook_secrets_path: Path | None = None
    webhook_secrets: tuple[bytes, ...] = field(default=(), repr=False)
    """As written, with any white space around them."""
    access_tokens_path: Path | None = None
    url_template: str | None = None
    poll_interval_s: float = 60.0
    bootstrap_dir: Path | None = None
    bootstrap_after_s: float = 5.0
    rollback_after_s: float = 900.0
    bus_url: str | None = field(default=None, repr=False)
    """May contain a password."""
    peers: tuple[parsers.Address, ...] = ()
    webhook_listen: parsers.Address = field(default=parsers.Address("", 8089))
    admin_listen: parsers.Address = field(default=parsers.Address("", 8088))
    log_level: str = "info"
    log_format: str | None = None


@dataclass(frozen=True, slots=True)
class EnvironmentVariable:
    """A variable: its name, its parser, and its meaning and default in Markdown."""

    name: str
    parse: Callable[[str], Any]
    meaning: str
    default: str = "–"

    @property
    def field(self) -> str:
        """The field of Settings that it sets."""
        return self.name.removeprefix(PREFIX).lower()


class SettingsError(ValueError):
    """The environment is invalid. `problems` has one sentence for each problem."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


def load(environ: Mapping[str, str]) -> Settings:
    """Read all settings. Raises SettingsError with every problem."""
    return _load(environ, VARIABLES, required=True)


def load_partial(environ: Mapping[str, str], *fields: str) -> Settings:
    """Read these fields only; the others have their defaults, and SDK keys are optional. Raises SettingsError."""
    return _load(environ, [variable for variable in VARIABLES if variable.field in fields], required=False)


def unknown(environ: Mapping[str, str]) -> dict[str, str | None]:
    """Find variables with our prefix that are not settings, each with the most similar setting or None.

    Variables that Kubernetes sets for a Service with such a name are not included.
    """
    known = [variable.name for variable in VARIABLES]
    prefixed = (name for name in environ if name.startswith(PREFIX) and name not in known)
    names = sorted(name for name in prefixed if not _is_service_link(name, environ[name]))
    return {name: next(iter(difflib.get_close_matches(name, known, n=1)), None) for name in names}


def _is_service_link(name: str, value: str) -> bool:
    # For a name that only ends in _PORT the value decides, `tcp://…`: DATAFILE_ADMIN_PORT=8088 is a mistake.
    return bool(_SERVICE_LINK.fullmatch(name)) or (name.endswith("_PORT") and "://" in value)


def _load(environ: Mapping[str, str], variables: Iterable[EnvironmentVariable], *, required: bool) -> Settings:
    values: dict[str, Any] = {"sdk_keys": ()}
    problems = []
    if required and "DATAFILE_SDK_KEYS" not in environ:
        problems.append("DATAFILE_SDK_KEYS is not set: list the SDK keys of your environments, separated by commas")
    for variable in variables:
        text = environ.get(variable.name)
        if text is None or (not text.strip() and variable.name not in _NEVER_EMPTY):
            continue
        try:
            values[variable.field] = variable.parse(text)
        except ValueError as error:
            problems.append(f"{variable.name}: {error}")
    if problems:
        raise SettingsError(problems)
    return Settings(**values)


VARIABLES = (
    EnvironmentVariable("DATAFILE_SDK_KEYS", parsers.parse_sdk_keys, "SDK keys, separated by commas", "required"),
    EnvironmentVariable(
        "DATAFILE_DIR", parsers.parse_path, "directory to publish datafiles into", "`/var/run/datafile`"
    ),
    EnvironmentVariable(
        "DATAFILE_WEBHOOK_SECRETS_PATH",
        parsers.parse_path,
        "a file with one webhook secret, or a directory of such files (a mounted Secret). Files are reread while running: "
        "rotating or revoking a secret needs no restart",
    ),
    EnvironmentVariable(
        "DATAFILE_WEBHOOK_SECRETS",
        parsers.parse_secrets,
        "webhook secrets, separated by commas, for local use. Without any webhook secret, the webhook endpoint answers 503",
    ),
    EnvironmentVariable(
        "DATAFILE_ACCESS_TOKENS_PATH",
        parsers.parse_path,
        "directory of datafile access tokens for secure environments, one file per SDK key, named after the key",
    ),
    EnvironmentVariable(
        "DATAFILE_URL_TEMPLATE",
        parsers.parse_url_template,
        "URL of the datafiles; contains `{sdk_key}`. For keys with an access token, the default is the authenticated host",
        "Optimizely's CDN",
    ),
    EnvironmentVariable(
        "DATAFILE_POLL_INTERVAL_S",
        partial(parsers.parse_seconds, minimum=1, zero_is_off=True),
        "seconds between polls, at least 1. 0 turns polling off; failed fetches are still retried",
        "`60`",
    ),
    EnvironmentVariable(
        "DATAFILE_BOOTSTRAP_DIR",
        parsers.parse_path,
        "directory of fallback datafiles, `<sdk_key>.json`. One is published when there is no other datafile "
        "`DATAFILE_BOOTSTRAP_AFTER_S` after the start",
    ),
    EnvironmentVariable(
        "DATAFILE_BOOTSTRAP_AFTER_S",
        partial(parsers.parse_seconds, minimum=0),
        "seconds to wait for another datafile before a bootstrap file is published",
        "`5`",
    ),
    EnvironmentVariable(
        "DATAFILE_ROLLBACK_AFTER_S",
        partial(parsers.parse_seconds, minimum=0),
        "seconds for which upstream must keep answering with an older revision before it is published",
        "`900`",
    ),
    EnvironmentVariable(
        "DATAFILE_BUS_URL",
        parsers.parse_bus_url,
        "URL of a Redis or Valkey through which the sidecars of a fleet share datafiles and polls: "
        "`redis://[user[:password]@]host[:port][/database]`, `redis-sentinel://[user[:password]@]host[:port],…[/database]#master` "
        "or `redis+cluster://[user[:password]@]host[:port],…`; with TLS `rediss://`, `rediss-sentinel://`, `rediss+cluster://`. "
        "Needs the extra `redis`. Anyone with write access to it can change flags",
    ),
    EnvironmentVariable(
        "DATAFILE_PEERS",
        parsers.parse_peers,
        "webhook ports of the other sidecars, `host:port`, separated by commas. Each webhook is relayed to all of them. A "
        "host is an address or the name of a headless Service, which is resolved again for each webhook",
    ),
    EnvironmentVariable(
        "DATAFILE_WEBHOOK_LISTEN",
        parsers.parse_address,
        "address for webhooks: `:PORT` (all interfaces), `HOST:PORT` or `[IPV6]:PORT`. Port 0 picks a free port and logs it",
        "`:8089`",
    ),
    EnvironmentVariable(
        "DATAFILE_ADMIN_LISTEN", parsers.parse_address, "address for probes, metrics and status", "`:8088`"
    ),
    EnvironmentVariable(
        "DATAFILE_LOG_LEVEL",
        partial(parsers.parse_choice, choices=("debug", "info", "warning", "error")),
        "`debug`, `info`, `warning` or `error`",
        "`info`",
    ),
    EnvironmentVariable(
        "DATAFILE_LOG_FORMAT",
        partial(parsers.parse_choice, choices=("console", "json")),
        "`console` or `json`",
        "`console` on a terminal, else `json`",
    ),
)

_NEVER_EMPTY = {"DATAFILE_SDK_KEYS", "DATAFILE_WEBHOOK_SECRETS", "DATAFILE_WEBHOOK_SECRETS_PATH"}
