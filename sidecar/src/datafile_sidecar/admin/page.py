"""The page for people: one file, nothing from elsewhere, held to that by a policy that the browser enforces."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

_INLINE = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


@cache
def page() -> tuple[bytes, dict[str, str]]:
    """The page's bytes, and the headers that let it run its own script and style, read `/status`, and do nothing else."""
    text = (Path(__file__).with_name("page.html")).read_text(encoding="utf-8")
    allowed = {kind: f"'sha256-{_digest(content)}'" for kind, content in _INLINE.findall(text)}
    policy = (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Content-Type": "text/html; charset=utf-8",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return text.encode(), headers


def _digest(content: str) -> str:
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
