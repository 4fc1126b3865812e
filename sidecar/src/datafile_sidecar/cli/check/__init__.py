"""`datafile-sidecar check`: looks at all that a sidecar needs, before somebody needs the sidecar, and says what to mend.

Nothing is changed, published or announced by it. It can be run beside a sidecar, in its container, at any time.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping

from .bus import check_bus
from .directory import look_at_bootstrap, look_at_directory
from .finding import Finding, Verdict, as_json, as_text, exit_status, summary
from .peers import look_at_peers
from .settings import look_at_secrets, look_at_settings, look_at_tokens
from .upstream import PART as UPSTREAM
from .upstream import look_at_upstream

__all__ = ["Finding", "Verdict", "look", "show"]


async def look(environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    """Look at one part after the other; each finding as soon as there is one. Takes as long as upstream and peers take."""
    settings, findings = look_at_settings(environ)
    for finding in findings:
        yield finding
    if settings is None:
        return
    for finding in look_at_secrets(settings):
        yield finding
    tokens, findings = look_at_tokens(settings)
    for finding in findings:
        yield finding
    findings, held = await asyncio.to_thread(look_at_directory, settings, environ)
    for finding in (*findings, *look_at_bootstrap(settings)):
        yield finding
    if tokens is not None:
        async for finding in look_at_upstream(settings, environ, tokens, held):
            yield finding
    if bus := await check_bus(settings.bus_url, settings.sdk_keys):
        yield bus
    async for finding in look_at_peers(settings.peers, has_bus=settings.bus_url is not None):
        yield finding


async def show(environ: Mapping[str, str], in_json: bool) -> int:
    """Look and print; the exit status: 0 nothing to mend, 1 something, 2 a sidecar would refuse to start with this."""
    colours = sys.stdout.isatty() and not environ.get("NO_COLOR")
    findings = []
    async for finding in look(environ):
        findings.append(finding)
        if not in_json:
            print(as_text(finding, colours), flush=True)  # noqa: T201
    whole = any(finding.part == UPSTREAM for finding in findings)  # settings and tokens stand before it
    print(as_json(findings) if in_json else summary(findings, whole=whole))  # noqa: T201
    return exit_status(findings)
