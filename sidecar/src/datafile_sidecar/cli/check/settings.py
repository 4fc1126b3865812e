"""Check settings, webhook secrets and access tokens, read as the daemon reads them."""

import time
from collections.abc import Mapping

from datafile_sidecar.config import settings
from datafile_sidecar.config.credentials import CredentialsError, Secrets, Tokens
from datafile_sidecar.config.parsers import Address
from datafile_sidecar.config.settings import Settings, SettingsError
from datafile_sidecar.network.server import ListenError, bind

from .finding import Finding, failed, ok, refused, warning

_ALL_INTERFACES = {"", "0.0.0.0", "::"}  # noqa: S104 – read, not bound
_READABLE = "check that the Secret is mounted there and readable by this user (in a pod: fsGroup, defaultMode 0440)"


def check_settings(environ: Mapping[str, str]) -> tuple[Settings | None, list[Finding]]:
    """Check the environment. Returns the settings, None when they are invalid, and the findings."""
    unknown = [_unknown(name, nearest) for name, nearest in settings.unknown(environ).items()]
    try:
        loaded = settings.load(environ)
    except SettingsError as error:
        return None, [*map(_invalid, error.problems), *unknown]
    count = sum(variable.name in environ for variable in settings.VARIABLES)
    keys = "1 SDK key" if len(loaded.sdk_keys) == 1 else f"{len(loaded.sdk_keys)} SDK keys"
    findings = [*unknown, *_contradictions(loaded), *_addresses(loaded)]
    return loaded, findings or [ok("settings", f"{keys}; all {count} variables that are set are valid")]


def _invalid(problem: str) -> Finding:
    return refused("settings", problem, "`datafile-sidecar run --help` describes each variable")


def _unknown(name: str, nearest: str | None) -> Finding:
    fix = f"rename it to {nearest}, if that is what you meant, or remove it" if nearest else "remove it"
    return failed("settings", f"{name} is not a setting and has no effect", fix)


def _contradictions(loaded: Settings) -> list[Finding]:
    findings = []
    if _overlap(loaded.webhook_listen, loaded.admin_listen):
        message = f"DATAFILE_WEBHOOK_LISTEN and DATAFILE_ADMIN_LISTEN both use port {loaded.admin_listen.port}"
        findings.append(refused("settings", message, "use two different ports"))
    has_secret = bool(loaded.webhook_secrets or loaded.webhook_secrets_path)
    if not loaded.poll_interval_s and not has_secret:
        findings.append(
            failed(
                "settings",
                "polling is off (DATAFILE_POLL_INTERVAL_S=0) and there is no webhook secret: updates never arrive",
                "set DATAFILE_WEBHOOK_SECRETS_PATH, or leave DATAFILE_POLL_INTERVAL_S at its default",
            )
        )
    return findings


def _addresses(loaded: Settings) -> list[Finding]:
    hosts = {"DATAFILE_WEBHOOK_LISTEN": loaded.webhook_listen.host, "DATAFILE_ADMIN_LISTEN": loaded.admin_listen.host}
    return [
        refused(
            "settings",
            f"{name}: can't listen on {host} on this machine",
            "use an address of this machine, or leave out the host",
        )
        for name, host in hosts.items()
        if not _can_listen(host)
    ]


def _can_listen(host: str) -> bool:
    """Try port 0: a running sidecar may use the configured port."""
    try:
        bind(host, 0, "").close()
    except ListenError:
        return False
    return True


def _overlap(one: Address, other: Address) -> bool:
    hosts = {one.host, other.host}
    return one.port == other.port != 0 and (len(hosts) == 1 or not hosts.isdisjoint(_ALL_INTERFACES))


def check_secrets(loaded: Settings) -> list[Finding]:
    """Check the webhook secrets. The findings contain neither a secret nor its length."""
    try:
        secrets = Secrets(loaded.webhook_secrets_path, loaded.webhook_secrets, time.monotonic)
    except CredentialsError as error:
        return [refused("secrets", str(error), f"put one secret into each file; {_READABLE}")]
    if not secrets.active:
        fix = "set DATAFILE_WEBHOOK_SECRETS_PATH, unless polling alone is intended"
        return [warning("secrets", "no webhook secret: webhooks are answered with 503, updates arrive by polling", fix)]
    untrimmed = [
        warning(
            "secrets",
            f"{name} has white space around a secret; it is ignored",
            "nothing to do; to avoid this warning, write the file with `printf %s` instead of `echo`",
        )
        for name in secrets.untrimmed
    ]
    empty = [
        warning("secrets", f"{name} is empty and is ignored", "put a secret into it, or remove it")
        for name in secrets.empty
    ]
    count = len(secrets.active)
    return [ok("secrets", "1 webhook secret" if count == 1 else f"{count} webhook secrets"), *untrimmed, *empty]


def check_tokens(loaded: Settings) -> tuple[Tokens | None, list[Finding]]:
    """Check the access tokens. Returns them, None when they can't be read, and the findings."""
    try:
        tokens = Tokens(loaded.access_tokens_path, loaded.sdk_keys)
    except CredentialsError as error:
        fix = f"name each file like its SDK key and put the token into it; {_READABLE}"
        return None, [refused("tokens", str(error), fix)]
    if loaded.access_tokens_path is None:
        return tokens, []
    unmatched = [name for name in tokens.names if name not in loaded.sdk_keys]
    without_token = [key for key in loaded.sdk_keys if tokens.get(key) is None]
    findings = [
        *(_unmatched(name) for name in unmatched),
        *(
            warning(
                "tokens",
                f"no access token for {key}: it is fetched without one",
                f"add a file named {key}, if this key needs a token",
            )
            for key in without_token
        ),
    ]
    return tokens, findings or [ok("tokens", "one access token for each SDK key")]


def _unmatched(name: str) -> Finding:
    return warning(
        "tokens", f"file {name} matches no key in DATAFILE_SDK_KEYS", "name the file like the SDK key, or remove it"
    )
