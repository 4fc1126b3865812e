"""The status page: one self-contained file, with headers by which the browser lets it do nothing but read `/status`."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Final

_INLINE = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


# Read on import, because a request is served on the event loop, where nothing may read files.
_HTML = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
_DIGESTS = {tag: hashlib.sha256(content.encode()).digest() for tag, content in _INLINE.findall(_HTML)}
_HASHES = {tag: f"'sha256-{base64.b64encode(digest).decode()}'" for tag, digest in _DIGESTS.items()}

BODY: Final = _HTML.encode()
HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_HASHES['script']}; style-src {_HASHES['style']}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
