"""Settings, webhook secrets and access tokens, read as the daemon reads them."""

import time
from collections.abc import Mapping

from datafile_sidecar.config import settings
from datafile_sidecar.config.credentials import CredentialsError, Secrets, Tokens
from datafile_sidecar.config.settings import Address, Settings, SettingsError
from datafile_sidecar.network.server import ListenError, bind

from .finding import Finding, failed, ok, refused, warning

_ANY = {"", "0.0.0.0", "::"}  # noqa: S104 – read, not bound
_READABLE = "see that the Secret is mounted there and that this user may read it (in a pod: fsGroup, defaultMode 0440)"


def look_at_settings(environ: Mapping[str, str]) -> tuple[Settings | None, list[Finding]]:
    """The settings, None where they can't be used, and what there is to say of them."""
    strange = [_strange(name, nearest) for name, nearest in settings.unknown(environ).items()]
    try:
        told = settings.load(environ)
    except SettingsError as error:
        return None, [*map(_bad, error.problems), *strange]
    count = sum(variable.name in environ for variable in settings.VARIABLES)
    keys = "1 SDK key" if len(told.sdk_keys) == 1 else f"{len(told.sdk_keys)} SDK keys"
    findings = [*strange, *_contradictions(told), *_addresses(told)]
    return told, findings or [ok("settings", f"{keys}; all of the {count} variables that are set can be read")]


def _bad(problem: str) -> Finding:
    name, _, what = problem.partition(": ")
    return refused(
        "settings",
        f"{name}: {what}" if what else problem,
        "`datafile-sidecar run --help` says how each variable is written",
    )


def _strange(name: str, nearest: str | None) -> Finding:
    mend = f"call it {nearest}, if that is meant; else remove it" if nearest else "remove it"
    return failed("settings", f"{name} is no setting, so it does nothing", mend)


def _contradictions(told: Settings) -> list[Finding]:
    findings = []
    if _overlap(told.webhook_listen, told.admin_listen):
        says = f"DATAFILE_WEBHOOK_LISTEN and DATAFILE_ADMIN_LISTEN both take port {told.admin_listen.port}"
        findings.append(refused("settings", says, "give each a port of its own"))
    has_secret = bool(told.webhook_secrets or told.webhook_secrets_path)
    if not told.poll_interval_s and not has_secret:
        findings.append(
            failed(
                "settings",
                "polling is off (DATAFILE_POLL_INTERVAL_S=0) and there is no webhook secret: no update will ever come",
                "set DATAFILE_WEBHOOK_SECRETS_PATH, or leave DATAFILE_POLL_INTERVAL_S at its default",
            )
        )
    return findings


def _addresses(told: Settings) -> list[Finding]:
    hosts = {"DATAFILE_WEBHOOK_LISTEN": told.webhook_listen.host, "DATAFILE_ADMIN_LISTEN": told.admin_listen.host}
    return [
        refused(
            "settings", f"{name}: nothing can listen on {host} here", "name an address of this machine, or leave it out"
        )
        for name, host in hosts.items()
        if not _can_listen(host)
    ]


def _can_listen(host: str) -> bool:
    """At any port: the one that is meant may be a running sidecar's."""
    try:
        bind(host, 0, "").close()
    except ListenError:
        return False
    return True


def _overlap(one: Address, other: Address) -> bool:
    hosts = {one.host, other.host}
    return one.port == other.port != 0 and (len(hosts) == 1 or not hosts.isdisjoint(_ANY))


def look_at_secrets(told: Settings) -> list[Finding]:
    """Whether webhooks can be verified. Neither a secret nor its length is told."""
    try:
        found = Secrets(told.webhook_secrets_path, told.webhook_secrets, time.monotonic)
    except CredentialsError as error:
        return [refused("secrets", str(error), f"put one secret into each file; {_READABLE}")]
    if not found.active:
        mend = "set DATAFILE_WEBHOOK_SECRETS_PATH, unless you mean to poll only"
        return [warning("secrets", "there is none: webhooks are answered with 503, updates come by polling", mend)]
    untrimmed = [
        warning(
            "secrets",
            f"{name} has white space around a secret, which is no part of it",
            "nothing, if that came with the file; it is harmless (write it with `printf %s`, not `echo`)",
        )
        for name in found.untrimmed
    ]
    empty = [
        warning("secrets", f"{name} is empty and verifies nothing", "put a secret into it, or remove it")
        for name in found.empty
    ]
    count = len(found.active)
    return [ok("secrets", "1 webhook secret" if count == 1 else f"{count} webhook secrets"), *untrimmed, *empty]


def look_at_tokens(told: Settings) -> tuple[Tokens | None, list[Finding]]:
    """The access tokens, None where they can't be read, and for which keys there are any."""
    try:
        tokens = Tokens(told.access_tokens_path, told.sdk_keys)
    except CredentialsError as error:
        mend = f"name each file like its SDK key and put the token into it; {_READABLE}"
        return None, [refused("tokens", str(error), mend)]
    if told.access_tokens_path is None:
        return tokens, []
    foreign = [name for name in tokens.names if name not in told.sdk_keys]
    bare = [key for key in told.sdk_keys if tokens.get(key) is None]
    findings = [
        *(_foreign(name) for name in foreign),
        *(
            warning(
                "tokens",
                f"there is none for {key}, so it is fetched without one",
                "add a file of that name, if it needs one",
            )
            for key in bare
        ),
    ]
    return tokens, findings or [ok("tokens", "one access token for each SDK key")]


def _foreign(name: str) -> Finding:
    return warning(
        "tokens", f"{name} is no SDK key in DATAFILE_SDK_KEYS", "name the file like the SDK key, or remove it"
    )
