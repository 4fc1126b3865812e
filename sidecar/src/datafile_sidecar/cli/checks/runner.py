"""Run all checks in order, and print the findings as they come."""

import asyncio
import sys
from collections.abc import Mapping

from datafile_sidecar.cli.checks.bus import check_bus
from datafile_sidecar.cli.checks.directory import check_bootstrap, check_directory
from datafile_sidecar.cli.checks.finding import Finding, Report, as_json, as_text, exit_status, summary
from datafile_sidecar.cli.checks.peers import check_peers
from datafile_sidecar.cli.checks.settings import check_secrets, check_settings, check_tokens
from datafile_sidecar.cli.checks.upstream import UPSTREAM, check_upstream


async def check_all(environ: Mapping[str, str], report: Report) -> None:
    """Check one part after the other. Nothing is changed, published or announced."""
    settings = await asyncio.to_thread(check_settings, environ, report)
    if settings is None:
        return
    await asyncio.to_thread(check_secrets, settings, report)
    tokens = await asyncio.to_thread(check_tokens, settings, report)
    published = await asyncio.to_thread(check_directory, settings, environ, report)
    await asyncio.to_thread(check_bootstrap, settings, report)
    if tokens is not None:
        await check_upstream(settings, environ, tokens, published, report)
    if settings.bus_url is not None:
        report(await check_bus(settings.bus_url, settings.sdk_keys))
    await check_peers(settings.peers, report, has_bus=settings.bus_url is not None)


async def check_and_print(environ: Mapping[str, str], in_json: bool) -> int:
    """Run all checks, print, and return the exit status."""
    colours = sys.stdout.isatty() and not environ.get("NO_COLOR")
    findings: list[Finding] = []

    def report(finding: Finding) -> None:
        findings.append(finding)
        if not in_json:
            print(as_text(finding, colours), flush=True)  # noqa: T201

    await check_all(environ, report)
    # Without usable settings or tokens, upstream is not checked.
    is_complete = any(finding.part == UPSTREAM for finding in findings)
    print(as_json(findings) if in_json else summary(findings, is_complete=is_complete))  # noqa: T201
    return exit_status(findings)
