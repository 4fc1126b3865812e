"""Errors of the bus, and how they are shown: the URL without user and password, and no text with the password."""

from urllib.parse import unquote, urlsplit

from datafile_sidecar.bus.broker import ANSWER_WITHIN_S


class BusError(Exception):
    """The bus can't be used with these settings; the text says what to fix."""


class BrokerError(Exception):
    """The connection to the broker is lost or of no use."""


class CommandRefusedError(BrokerError):
    """The broker refused one command, for example for lack of memory or permission. The connection is still good."""


def shown(url: str) -> str:
    """Return the broker's URL without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def explained(url: str, error: BaseException) -> str:
    """Say what went wrong. Brokers quote what they were sent, so the password is removed from their text."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    no_answer = f"no answer within {ANSWER_WITHIN_S:g} s"
    text = str(error) or (no_answer if isinstance(error, TimeoutError) else type(error).__name__)
    parts = urlsplit(url)
    for secret in (parts.password, unquote(parts.password or "")):
        text = text.replace(secret, "***") if secret else text
    return f"{shown(url)}: {text}"
