"""A worker's report on `sidecar.sock`: one line of JSON, which is untrusted.

Each line replaces the ones before, so only the newest counts. A line that can't be parsed is refused as a whole.
"""

from typing import Annotated, Literal

import msgspec

MAX_LINE_BYTES = 512


class MalformedLineError(ValueError):
    """A line that is not a worker's report of version 1."""


class WorkerMessage(msgspec.Struct, frozen=True):
    """A process that decides by `revision`, None while it has no datafile. `host` is its own name for its machine."""

    v: Literal[1]
    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}\Z")]
    sdk_key: Annotated[str, msgspec.Meta(max_length=256)]
    pid: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    host: Annotated[str, msgspec.Meta(max_length=255)]
    revision: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None

    @property
    def identity(self) -> tuple[str, int, str, str]:
        """What is the same in all lines of one worker."""
        return self.id, self.pid, self.host, self.sdk_key


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
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as problem:
        raise MalformedLineError(f"not a line of version 1: {problem}") from None
    return message


def newest(data: bytes) -> tuple[WorkerMessage | None, bytes]:
    """Parse the last whole line.

    Returns:
        The message, None where no line is whole yet, and the bytes of the line that has only begun.

    Raises:
        MalformedLineError: As `parse`, also for a line that has only begun.
    """
    whole, end, rest = data.rpartition(b"\n")
    if len(rest) > MAX_LINE_BYTES:
        raise MalformedLineError(f"a line has at most {MAX_LINE_BYTES} bytes")
    return (parse(whole.rpartition(b"\n")[2]) if end else None), rest


_DECODER = msgspec.json.Decoder(WorkerMessage)
