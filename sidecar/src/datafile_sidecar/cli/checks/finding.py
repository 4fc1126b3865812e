"""The result of one check: a verdict, a message, and how to fix it."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from datafile_sidecar.core.display_text import printable


class CheckVerdict(StrEnum):
    """From good to bad. REFUSED means that the sidecar would not start."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    REFUSED = "refused"


_COLOURS = {CheckVerdict.OK: "32", CheckVerdict.WARNING: "33", CheckVerdict.FAILED: "31", CheckVerdict.REFUSED: "31"}


@dataclass(frozen=True, slots=True)
class Finding:
    """`part` is what was checked. `fix` says what to do, and is None only when the verdict is OK."""

    part: str
    verdict: CheckVerdict
    message: str
    fix: str | None = None


Report = Callable[[Finding], None]
"""Takes each finding as soon as it is known."""


def ok(part: str, message: str) -> Finding:
    """It works."""
    return Finding(part, CheckVerdict.OK, message)


def warning(part: str, message: str, fix: str) -> Finding:
    """It works, but is perhaps not intended."""
    return Finding(part, CheckVerdict.WARNING, message, fix)


def failed(part: str, message: str, fix: str) -> Finding:
    """Something will not work."""
    return Finding(part, CheckVerdict.FAILED, message, fix)


def refused(part: str, message: str, fix: str) -> Finding:
    """The sidecar would not start."""
    return Finding(part, CheckVerdict.REFUSED, message, fix)


def worst(findings: Iterable[Finding]) -> CheckVerdict:
    """The worst verdict; OK without findings."""
    return max((finding.verdict for finding in findings), key=list(CheckVerdict).index, default=CheckVerdict.OK)


def exit_status(findings: Iterable[Finding]) -> int:
    """0 when everything works, even with warnings; 1 with problems; 2 when the sidecar would refuse to start."""
    return {CheckVerdict.FAILED: 1, CheckVerdict.REFUSED: 2}.get(worst(findings), 0)


def as_json(findings: Sequence[Finding]) -> str:
    """Format all findings for programs."""
    return json.dumps({"verdict": worst(findings), "findings": [asdict(finding) for finding in findings]}, indent=2)


def as_text(finding: Finding, colours: bool) -> str:
    """Format one finding for people. Untrusted text in it can't move the cursor."""
    verdict = f"{finding.verdict:<8}"
    if colours:
        verdict = f"\x1b[{_COLOURS[finding.verdict]}m{verdict}\x1b[0m"
    text = f"{finding.part:<10} {verdict} {printable(finding.message)}"
    return f"{text}\n{'':<19} → {printable(finding.fix)}" if finding.fix else text


def summary(findings: Iterable[Finding], *, is_complete: bool) -> str:
    """Format the last line for people.

    Args:
        is_complete: False when checks were skipped.
    """
    verdicts = [finding.verdict for finding in findings if finding.verdict is not CheckVerdict.OK]
    warnings = verdicts.count(CheckVerdict.WARNING)
    if problems := len(verdicts) - warnings:
        skipped = "" if is_complete else " Checks that depend on it were skipped."
        return f"\n{count(problems, 'problem')} found.{skipped}"
    return f"\nNo problems found, {count(warnings, 'warning')}." if warnings else "\nNo problems found."


def count(number: int, noun: str) -> str:
    """A number of things, such as "1 warning" or "2 warnings"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
