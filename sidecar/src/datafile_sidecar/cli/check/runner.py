"""Run all checks in order, and print the findings as they come."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping

from .bus import check_bus
from .directory import check_bootstrap, check_directory
from .finding import Finding, as_json, as_text, exit_status, summary
from .peers import check_peers
from .settings import check_secrets, check_settings, check_tokens
from .upstream import PART as UPSTREAM
from .upstream import check_upstream


async def check_all(environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    """Check one part after the other, and yield each finding at once. Nothing is changed, published or announced."""
    settings, findings = await asyncio.to_thread(check_settings, environ)
    for finding in findings:
        yield finding
    if settings is None:
        return
    for finding in await asyncio.to_thread(check_secrets, settings):
        yield finding
    tokens, findings = await asyncio.to_thread(check_tokens, settings)
    for finding in findings:
        yield finding
    findings, published = await asyncio.to_thread(check_directory, settings, environ)
    for finding in (*findings, *await asyncio.to_thread(check_bootstrap, settings)):
        yield finding
    if tokens is not None:
        async for finding in check_upstream(settings, environ, tokens, published):
            yield finding
    if bus := await check_bus(settings.bus_url, settings.sdk_keys):
        yield bus
    async for finding in check_peers(settings.peers, has_bus=settings.bus_url is not None):
        yield finding


async def check_and_print(environ: Mapping[str, str], in_json: bool) -> int:
    """Run all checks, print, and return the exit status."""
    colours = sys.stdout.isatty() and not environ.get("NO_COLOR")
    findings = []
    async for finding in check_all(environ):
        findings.append(finding)
        if not in_json:
            print(as_text(finding, colours), flush=True)  # noqa: T201
    # Without usable settings or tokens, upstream is not checked.
    is_complete = any(finding.part == UPSTREAM for finding in findings)
    print(as_json(findings) if in_json else summary(findings, is_complete=is_complete))  # noqa: T201
    return exit_status(findings)
