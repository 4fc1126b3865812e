"""Check settings, webhook secrets and access tokens, read as the daemon reads them."""

import time
from collections.abc import Iterator, Mapping

from datafile_sidecar.cli.checks.finding import Finding, Report, count, failed, ok, refused, warning
from datafile_sidecar.config import settings
from datafile_sidecar.config.credentials import CredentialsError, Secrets, Tokens
from datafile_sidecar.config.settings import Settings, SettingsError
from datafile_sidecar.network.server import ListenError, bind

_ALL_INTERFACES = {"", "0.0.0.0", "::"}  # noqa: S104 – read, not bound
_READABLE = "check that the Secret is mounted there and readable by this user (in a pod: fsGroup, defaultMode 0440)"

_WITHOUT_MARK = (
    "nothing to do; to avoid this warning, write the file in PowerShell with `Set-Content -NoNewline -Encoding ascii`"
)


def check_settings(environ: Mapping[str, str], report: Report) -> Settings | None:
    """Check the environment. Returns the settings, None when they are invalid."""
    loaded, unknown = None, list(_unknown(environ))
    try:
        loaded = settings.load(environ)
    except SettingsError as error:
        fix = "`datafile-sidecar run --help` describes each variable"
        findings = [*(refused("settings", problem, fix) for problem in error.problems), *unknown]
    else:
        findings = [*unknown, *_contradictions(loaded), *_addresses(loaded)] or [_valid(loaded, environ)]
    for finding in findings:
        report(finding)
    return loaded


def _unknown(environ: Mapping[str, str]) -> Iterator[Finding]:
    for name, nearest in settings.unknown(environ).items():
        fix = f"rename it to {nearest}, if that is what you meant, or remove it" if nearest else "remove it"
        yield failed("settings", f"{name} is not a setting and has no effect", fix)


def _contradictions(loaded: Settings) -> Iterator[Finding]:
    webhook, admin = loaded.webhook_listen, loaded.admin_listen
    if webhook.port == admin.port != 0 and (webhook.host == admin.host or {webhook.host, admin.host} & _ALL_INTERFACES):
        message = f"DATAFILE_WEBHOOK_LISTEN and DATAFILE_ADMIN_LISTEN both use port {admin.port}"
        yield refused("settings", message, "use two different ports")
    if not (loaded.poll_interval_s or loaded.webhook_secrets or loaded.webhook_secrets_path):
        message = "polling is off (DATAFILE_POLL_INTERVAL_S=0) and there is no webhook secret: updates never arrive"
        fix = "set DATAFILE_WEBHOOK_SECRETS_PATH, or leave DATAFILE_POLL_INTERVAL_S at its default"
        yield failed("settings", message, fix)


def _addresses(loaded: Settings) -> Iterator[Finding]:
    hosts = {"DATAFILE_WEBHOOK_LISTEN": loaded.webhook_listen.host, "DATAFILE_ADMIN_LISTEN": loaded.admin_listen.host}
    for name, host in hosts.items():
        try:
            # Port 0, because a running sidecar may use the configured port.
            bind(host, 0, name).close()
        except ListenError:
            message = f"{name}: can't listen on {host} on this machine"
            yield refused("settings", message, "use an address of this machine, or leave out the host")


def _valid(loaded: Settings, environ: Mapping[str, str]) -> Finding:
    number = sum(variable.name in environ for variable in settings.VARIABLES)
    keys = count(len(loaded.sdk_keys), "SDK key")
    return ok("settings", f"{keys}; all {number} variables that are set are valid")


def check_secrets(loaded: Settings, report: Report) -> None:
    """Check the webhook secrets. The findings contain neither a secret nor its length."""
    try:
        secrets = Secrets(loaded.webhook_secrets_path, loaded.webhook_secrets, time.monotonic)
    except CredentialsError as error:
        report(refused("secrets", str(error), f"put one secret into each file; {_READABLE}"))
        return
    if secrets.active:
        report(ok("secrets", count(len(secrets.active), "webhook secret")))
    else:
        fix = "set DATAFILE_WEBHOOK_SECRETS_PATH, unless polling alone is intended"
        message = "no webhook secret: webhooks are answered with 503, updates arrive by polling"
        report(warning("secrets", message, fix))
    for name in secrets.untrimmed:
        fix = "nothing to do; to avoid this warning, write the file with `printf %s` instead of `echo`"
        report(warning("secrets", f"{name} has white space around a secret; it is ignored", fix))
    for name in secrets.marked:
        report(warning("secrets", f"{name} has a byte order mark before the secret; it is ignored", _WITHOUT_MARK))
    for name in secrets.empty:
        report(warning("secrets", f"{name} is empty and is ignored", "put a secret into it, or remove it"))


def check_tokens(loaded: Settings, report: Report) -> Tokens | None:
    """Check the access tokens. Returns them, None when they can't be read."""
    try:
        tokens = Tokens(loaded.access_tokens_path, loaded.sdk_keys)
    except CredentialsError as error:
        fix = f"name each file like its SDK key and put the token into it; {_READABLE}"
        report(refused("tokens", str(error), fix))
        return None
    if loaded.access_tokens_path is None:
        return tokens
    for name in tokens.marked:
        report(warning("tokens", f"file {name} has a byte order mark before the token; it is ignored", _WITHOUT_MARK))
    unmatched = [name for name in tokens.names if name not in loaded.sdk_keys]
    without_token = [key for key in loaded.sdk_keys if tokens.get(key) is None]
    for name in unmatched:
        fix = "name the file like the SDK key, or remove it"
        report(warning("tokens", f"file {name} matches no key in DATAFILE_SDK_KEYS", fix))
    for key in without_token:
        fix = f"add a file named {key}, if this key needs a token"
        report(warning("tokens", f"no access token for {key}: it is fetched without one", fix))
    if not unmatched and not without_token:
        report(ok("tokens", "one access token for each SDK key"))
    return tokens
