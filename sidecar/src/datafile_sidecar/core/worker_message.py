"""What a process of the app says of itself on `sidecar.sock`: one line of JSON, from a stranger.

Laws: a line says everything anew, so the newest one is all that counts; what is not understood is no worker.
"""

from typing import Annotated, Literal

import msgspec

MAX_LINE_BYTES = 512


class MalformedLineError(ValueError):
    """A line that is none of ours."""


class Worker(msgspec.Struct, frozen=True):
    """A process that decides by `revision`; None while it has no datafile. `host` is what it calls its machine."""

    v: Literal[1]
    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}\Z")]
    sdk_key: Annotated[str, msgspec.Meta(max_length=256)]
    pid: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    host: Annotated[str, msgspec.Meta(max_length=255)]
    revision: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None

    @property
    def identity(self) -> tuple[str, int, str, str]:
        """What stays the same over all lines of one worker."""
        return self.id, self.pid, self.host, self.sdk_key


def parse(line: bytes) -> Worker:
    """The worker that a line speaks of. Fields that we don't know are ignored. Raises MalformedLineError."""
    if len(line) > MAX_LINE_BYTES:
        raise MalformedLineError(f"a line has at most {MAX_LINE_BYTES} bytes")
    try:
        worker = _DECODER.decode(line)
        worker.host.encode()  # half a surrogate pair can't be shown again
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as problem:
        raise MalformedLineError(f"not a line of version 1: {problem}") from None
    return worker


def newest(data: bytes) -> tuple[Worker | None, bytes]:
    """The worker of the last whole line, None where there is none yet, and the bytes of the line that has only begun.

    Raises MalformedLineError.
    """
    whole, end, rest = data.rpartition(b"\n")
    if len(rest) > MAX_LINE_BYTES:
        raise MalformedLineError(f"a line has at most {MAX_LINE_BYTES} bytes")
    return (parse(whole.rpartition(b"\n")[2]) if end else None), rest


_DECODER = msgspec.json.Decoder(Worker)
