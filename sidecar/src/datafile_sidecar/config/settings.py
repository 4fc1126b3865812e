"""The environment as one frozen value, or all problems with it at once. The tables in the docs come from `VARIABLES`."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datafile_sidecar.config.parsers import (
    Address,
    choice_parser,
    parse_address,
    parse_bus_url,
    parse_path,
    parse_peers,
    parse_sdk_keys,
    parse_secrets,
    parse_url_template,
    seconds_parser,
)

PREFIX = "DATAFILE_"
_SERVICE_LINK = re.compile(r".+(_SERVICE_HOST|_SERVICE_PORT(_.+)?|_PORT_\d+_[A-Z]+(_(PROTO|PORT|ADDR))?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The configuration of a sidecar. Times are seconds; `VARIABLES` has the meaning of each field."""

    sdk_keys: tuple[str, ...]
    directory: Path = Path("/var/run/datafile")
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
    peers: tuple[tuple[str, int], ...] = ()
    webhook_listen: Address = field(default=Address("", 8089))
    admin_listen: Address = field(default=Address("", 8088))
    log_level: str = "info"
    log_format: str | None = None


@dataclass(frozen=True, slots=True)
class EnvironmentVariable:
    """A variable: the field of Settings that it sets, its parser, and its default and meaning in Markdown."""

    name: str
    field: str
    parse: Callable[[str], Any]
    default: str
    meaning: str


class SettingsError(ValueError):
    """The environment is invalid. `problems` has one sentence for each problem."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


def load(environ: Mapping[str, str]) -> Settings:
    """Read all settings. Raises SettingsError with every problem."""
    values, problems = _parse(VARIABLES, environ)
    if "DATAFILE_SDK_KEYS" not in environ:
        problems.insert(0, "DATAFILE_SDK_KEYS is not set: list the SDK keys of your environments, separated by commas")
    if problems:
        raise SettingsError(problems)
    return Settings(**values)


def load_partial(environ: Mapping[str, str], *fields: str) -> Settings:
    """Read these fields only; the others have their defaults, and SDK keys are optional. Raises SettingsError."""
    values, problems = _parse([variable for variable in VARIABLES if variable.field in fields], environ)
    if problems:
        raise SettingsError(problems)
    return Settings(**{"sdk_keys": (), **values})


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


def _parse(variables: Iterable[EnvironmentVariable], environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {}
    problems = []
    for variable in variables:
        text = environ.get(variable.name)
        if text is None or (not text.strip() and variable.name not in _NEVER_EMPTY):
            continue
        try:
            values[variable.field] = variable.parse(text)
        except ValueError as error:
            problems.append(f"{variable.name}: {error}")
    return values, problems


VARIABLES = (
    EnvironmentVariable("DATAFILE_SDK_KEYS", "sdk_keys", parse_sdk_keys, "required", "SDK keys, separated by commas"),
    EnvironmentVariable(
        "DATAFILE_DIR", "directory", parse_path, "`/var/run/datafile`", "directory to publish datafiles into"
    ),
    EnvironmentVariable(
        "DATAFILE_WEBHOOK_SECRETS_PATH",
        "webhook_secrets_path",
        parse_path,
        "–",
        "a file with one webhook secret, or a directory of such files (a mounted Secret). Files are reread while running: "
        "rotating or revoking a secret needs no restart",
    ),
    EnvironmentVariable(
        "DATAFILE_WEBHOOK_SECRETS",
        "webhook_secrets",
        parse_secrets,
        "–",
        "webhook secrets, separated by commas, for local use. Without any webhook secret, the webhook endpoint answers 503",
    ),
    EnvironmentVariable(
        "DATAFILE_ACCESS_TOKENS_PATH",
        "access_tokens_path",
        parse_path,
        "–",
        "directory of datafile access tokens for secure environments, one file per SDK key, named after the key",
    ),
    EnvironmentVariable(
        "DATAFILE_URL_TEMPLATE",
        "url_template",
        parse_url_template,
        "Optimizely's CDN",
        "URL of the datafiles; contains `{sdk_key}`. For keys with an access token, the default is the authenticated host",
    ),
    EnvironmentVariable(
        "DATAFILE_POLL_INTERVAL_S",
        "poll_interval_s",
        seconds_parser(1, zero_is_off=True),
        "`60`",
        "seconds between polls, at least 1. 0 turns polling off; failed fetches are still retried",
    ),
    EnvironmentVariable(
        "DATAFILE_BOOTSTRAP_DIR",
        "bootstrap_dir",
        parse_path,
        "–",
        "directory of fallback datafiles, `<sdk_key>.json`. One is published when there is no other datafile "
        "`DATAFILE_BOOTSTRAP_AFTER_S` after the start",
    ),
    EnvironmentVariable(
        "DATAFILE_BOOTSTRAP_AFTER_S",
        "bootstrap_after_s",
        seconds_parser(0),
        "`5`",
        "seconds to wait for another datafile before a bootstrap file is published",
    ),
    EnvironmentVariable(
        "DATAFILE_ROLLBACK_AFTER_S",
        "rollback_after_s",
        seconds_parser(0),
        "`900`",
        "seconds for which upstream must keep answering with an older revision before it is published",
    ),
    EnvironmentVariable(
        "DATAFILE_BUS_URL",
        "bus_url",
        parse_bus_url,
        "–",
        "URL of a Redis or Valkey through which the sidecars of a fleet share datafiles and polls: "
        "`redis://[user[:password]@]host[:port][/database]`, or `rediss://` for TLS. Needs the extra `redis`. Anyone with "
        "write access to it can change flags",
    ),
    EnvironmentVariable(
        "DATAFILE_PEERS",
        "peers",
        parse_peers,
        "–",
        "webhook ports of the other sidecars, `host:port`, separated by commas. Each webhook is relayed to all of them. A "
        "host is an address or the name of a headless Service, which is resolved again for each webhook",
    ),
    EnvironmentVariable(
        "DATAFILE_WEBHOOK_LISTEN",
        "webhook_listen",
        parse_address,
        "`:8089`",
        "address for webhooks: `:PORT` (all interfaces), `HOST:PORT` or `[IPV6]:PORT`. Port 0 picks a free port and logs it",
    ),
    EnvironmentVariable(
        "DATAFILE_ADMIN_LISTEN", "admin_listen", parse_address, "`:8088`", "address for probes, metrics and status"
    ),
    EnvironmentVariable(
        "DATAFILE_LOG_LEVEL",
        "log_level",
        choice_parser("debug", "info", "warning", "error"),
        "`info`",
        "`debug`, `info`, `warning` or `error`",
    ),
    EnvironmentVariable(
        "DATAFILE_LOG_FORMAT",
        "log_format",
        choice_parser("console", "json"),
        "`console` on a terminal, else `json`",
        "`console` or `json`",
    ),
)

_NEVER_EMPTY = {"DATAFILE_SDK_KEYS", "DATAFILE_WEBHOOK_SECRETS", "DATAFILE_WEBHOOK_SECRETS_PATH"}
