"""The lines on `sidecar.sock`: what a worker reports, which is untrusted, and what the sidecar tells it.

A line is a JSON object and a line feed. Of the lines about one SDK key only the newest counts. A line that can't be parsed is
refused as a whole.
"""

import json
from typing import Annotated, Literal

import msgspec

MAX_LINE_BYTES = 512
DIGEST_CHARS = 16
"""How many hexadecimal characters of a SHA-256 digest a line has."""

_Digest = Annotated[str, msgspec.Meta(pattern=rf"^[0-9a-f]{{{DIGEST_CHARS}}}\Z")]


class MalformedLineError(ValueError):
    """A line that is not a worker's report of version 1."""


class Refusal(msgspec.Struct, frozen=True):
    """Why a worker can't use a datafile, and the datafile's digest; None where it could not even be read."""

    reason: str
    sha256: _Digest | None = None


class WorkerMessage(msgspec.Struct, frozen=True):
    """A process that uses `revision`, None while it has no datafile. `host` is its own name for its machine.

    `sha256` is the beginning of the digest of what it uses, None where it does not say. `lock` is the offset of the byte of the
    directory that it has locked, None where it has locked none. `refused` is what it can't use. `ended` says that it does not use
    this key any more.
    """

    v: Literal[1]
    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}\Z")]
    sdk_key: Annotated[str, msgspec.Meta(max_length=256)]
    pid: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    host: Annotated[str, msgspec.Meta(max_length=255)]
    revision: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None
    sha256: _Digest | None = None
    lock: Annotated[int, msgspec.Meta(ge=0, le=2**62 - 1)] | None = None
    refused: Refusal | None = None
    ended: bool = False

    @property
    def process(self) -> tuple[str, int, str]:
        """What is the same in all lines of one process."""
        return self.id, self.pid, self.host


def parse(line: bytes) -> WorkerMessage:
    """Parse one line. Unknown fields are ignored.

    Raises:
        MalformedLineError: It is longer than 512 bytes, or not of this form.
    """
    if len(line) > MAX_LINE_BYTES:
        raise MalformedLineError(f"a line has at most {MAX_LINE_BYTES} bytes")
    try:
        message = _DECODER.decode(line)
        message.host.encode()  # half a surrogate pair can't be shown again
        if message.refused:
            message.refused.reason.encode()
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as problem:
        raise MalformedLineError(f"not a line of version 1: {problem}") from None
    return message


def parse_lines(data: bytes) -> tuple[list[WorkerMessage], bytes]:
    """Parse every whole line.

    Returns:
        The messages, and the bytes of the line that has only begun.

    Raises:
        MalformedLineError: As `parse`, also for a line that has only begun.
    """
    *lines, rest = data.split(b"\n")
    if len(rest) > MAX_LINE_BYTES:
        raise MalformedLineError(f"a line has at most {MAX_LINE_BYTES} bytes")
    return [parse(line) for line in lines], rest


def published_line(sdk_key: str, revision: int | None, sha256: str | None) -> bytes:
    """Return the line that tells workers what is published, with None for nothing."""
    digest = sha256 and sha256[:DIGEST_CHARS]
    return json.dumps({"v": 1, "sdk_key": sdk_key, "revision": revision, "sha256": digest}).encode() + b"\n"


_DECODER = msgspec.json.Decoder(WorkerMessage)
