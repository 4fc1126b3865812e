"""What is said of a broker and its errors, to people: never its user or password."""

from urllib.parse import unquote, urlsplit


class BusError(Exception):
    """The bus can't be used as it is set up; its text says what to mend."""


def shown(url: str) -> str:
    """The broker's URL as anybody may see it: without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def explained(url: str, error: BaseException, answer_within_s: float) -> str:
    """What went wrong. Brokers echo what they were sent, so the password is taken out of their words."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    words = str(error) or (
        f"no answer within {answer_within_s:g} s" if isinstance(error, TimeoutError) else type(error).__name__
    )
    parts = urlsplit(url)
    for secret in (parts.password, unquote(parts.password or "")):
        words = words.replace(secret, "***") if secret else words
    return f"{shown(url)}: {words}"
