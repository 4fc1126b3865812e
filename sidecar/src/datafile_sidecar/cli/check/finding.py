"""What a look at one thing brought: a verdict, a sentence, and what to do about it."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """From good to bad. With what is `refused`, a sidecar does not even start."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    REFUSED = "refused"


_COLOURS = {Verdict.OK: "32", Verdict.WARNING: "33", Verdict.FAILED: "31", Verdict.REFUSED: "31"}
_BY_BADNESS = list(Verdict)


@dataclass(frozen=True, slots=True)
class Finding:
    """`part` is what was looked at, `says` what was seen, `mend` what to do about it: always there unless the verdict is ok."""

    part: str
    verdict: Verdict
    says: str
    mend: str | None = None


def ok(part: str, says: str) -> Finding:
    """All is well."""
    return Finding(part, Verdict.OK, says)


def warning(part: str, says: str, mend: str) -> Finding:
    """It works, and is perhaps not what somebody meant."""
    return Finding(part, Verdict.WARNING, says, mend)


def failed(part: str, says: str, mend: str) -> Finding:
    """Something will not work."""
    return Finding(part, Verdict.FAILED, says, mend)


def refused(part: str, says: str, mend: str) -> Finding:
    """A sidecar would not start."""
    return Finding(part, Verdict.REFUSED, says, mend)


def worst(findings: Iterable[Finding]) -> Verdict:
    """The worst verdict among them."""
    return max((finding.verdict for finding in findings), key=_BY_BADNESS.index, default=Verdict.OK)


def exit_status(findings: Iterable[Finding]) -> int:
    """0 for what works, warnings or not; 1 where something is to be mended; 2 where a sidecar would refuse to start."""
    return {Verdict.OK: 0, Verdict.WARNING: 0, Verdict.FAILED: 1, Verdict.REFUSED: 2}[worst(findings)]


def as_json(findings: Iterable[Finding]) -> str:
    """All of it for programs."""
    told = list(findings)
    return json.dumps({"verdict": worst(told), "findings": [asdict(finding) for finding in told]}, indent=2)


def as_text(finding: Finding, colours: bool) -> str:
    """One of them for people. Text from outside can't move the cursor."""
    verdict = f"{finding.verdict:<8}"
    if colours:
        verdict = f"\x1b[{_COLOURS[finding.verdict]}m{verdict}\x1b[0m"
    lines = [f"{finding.part:<10} {verdict} {_printable(finding.says)}"]
    if finding.mend:
        lines.append(f"{'':<19} → {_printable(finding.mend)}")
    return "\n".join(lines)


def summary(findings: Iterable[Finding], *, whole: bool) -> str:
    """The last line for people. `whole` is false where something could not be looked at."""
    counts = [finding.verdict for finding in findings if finding.verdict is not Verdict.OK]
    if not counts:
        return "\nAll is well."
    to_mend = sum(verdict is not Verdict.WARNING for verdict in counts)
    if not to_mend:
        return f"\nIt works. {_things(len(counts))} may not be what you meant."
    rest = "" if whole else " What depends on that was not looked at."
    return f"\n{_things(to_mend)} to mend.{rest}"


def _things(count: int) -> str:
    return "One thing" if count == 1 else f"{count} things"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
