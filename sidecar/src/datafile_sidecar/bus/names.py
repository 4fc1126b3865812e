"""Under which names things stand on the broker, and what may stand there."""

from typing import Any, Final

PREFIX: Final = "datafile-sidecar:1"
KEEP_S: Final = 7 * 24 * 3600


def name(sdk_key: str, what: str) -> str:
    """The name of a key, or of a channel."""
    return f"{PREFIX}:{sdk_key}:{what}"


async def beginning(client: Any, key: str, last: int) -> bytes:
    """A value up to this byte, empty where there is none; something that is no value of ours where it is no string."""
    from redis.exceptions import ResponseError

    try:
        text: bytes = await client.getrange(key, 0, last)
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return b"?"
    return text
