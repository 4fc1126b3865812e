"""Translates the exceptions of aiohttp, ssl and the operating system into an outcome and a description."""

import os
import ssl

import aiohttp

from datafile_sidecar.core.proxies import ProxyError
from datafile_sidecar.upstream.body import BodyError
from datafile_sidecar.upstream.tls import CaFileError

_CA_HINT = "if a proxy or a private CA issued it, set SSL_CERT_FILE to that CA's file"


def describe(error: Exception, timeout_s: float) -> tuple[str, str]:  # noqa: C901 - a flat table is easiest to check
    """Return (outcome, description) for an exception raised by a request.

    The description quotes neither headers nor text from outside, because they may hold secrets.
    """
    match error:
        case BodyError():
            return error.outcome, str(error)
        case TimeoutError():
            return "timeout", f"no complete answer within {timeout_s:g} s"
        case CaFileError():
            return "tls", str(error)
        case ProxyError():
            return "unreachable", str(error)
        case aiohttp.ClientConnectorCertificateError():
            return "tls", f"its certificate is not trusted ({_verify_message(error.certificate_error)}); {_CA_HINT}"
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return "tls", "the TLS handshake failed; does it speak TLS at this port?"
        case aiohttp.ClientConnectorDNSError():
            return "unreachable", f"the name {error.host} does not resolve ({error.os_error.strerror})"
        case aiohttp.ClientConnectorError():
            return "unreachable", f"can't connect ({_os_message(error.os_error)})"
        case aiohttp.ServerDisconnectedError() | OSError():
            return "unreachable", "the connection was closed before a response arrived"
        case aiohttp.ClientResponseError():
            return "protocol_error", f"the response is not valid HTTP ({type(error.__cause__ or error).__name__})"
        case _:
            return "protocol_error", f"the request failed ({type(error).__name__})"


def safe_cause(error: Exception) -> Exception | None:
    """Return the exception as a cause, or None if its `repr` would show the request's headers and so the token."""
    return None if isinstance(error, aiohttp.ClientResponseError) else error


def _os_message(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error) or type(error).__name__


def _verify_message(error: Exception) -> str:
    return getattr(error, "verify_message", "") or type(error).__name__
