"""What went wrong with a request, in words: the one place that knows the exceptions of aiohttp, of ssl and of the system."""

import os
import ssl

import aiohttp

from datafile_sidecar.core import answer
from datafile_sidecar.core.proxies import ProxyError
from datafile_sidecar.upstream.tls import TrustError

_TRUST_HINT = "where a proxy or a private CA signs it, name that CA's file in SSL_CERT_FILE"


def diagnosis(error: Exception, timeout_s: float) -> tuple[str, str]:  # noqa: C901 - a flat table is easiest to check
    """(outcome, words) for whatever was raised. The words quote neither headers nor foreign text, which may hold secrets."""
    match error:
        case answer.BodyError():
            return error.outcome, error.problem
        case TimeoutError():
            return "timeout", f"no complete answer within {timeout_s:g} s"
        case TrustError():
            return "tls", str(error)
        case ProxyError():
            return "unreachable", str(error)
        case aiohttp.ClientConnectorCertificateError():
            return "tls", f"its certificate is not trusted ({_verdict(error.certificate_error)}); {_TRUST_HINT}"
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return "tls", "no TLS connection could be made; does it speak TLS at this port?"
        case aiohttp.ClientConnectorDNSError():
            return "unreachable", f"the name {error.host} does not resolve ({error.os_error.strerror})"
        case aiohttp.ClientConnectorError():
            return "unreachable", f"can't connect ({_refusal(error.os_error)})"
        case aiohttp.ServerDisconnectedError() | OSError():
            return "unreachable", "the connection broke before there was an answer"
        case aiohttp.ClientResponseError():
            return "protocol_error", f"the answer is not good HTTP ({type(error.__cause__ or error).__name__})"
        case _:
            return "protocol_error", f"the request could not be made or the answer not read ({type(error).__name__})"


def speakable(error: Exception) -> Exception | None:
    """The cause, unless its `repr` would show the request's headers, and with them the token."""
    return None if isinstance(error, aiohttp.ClientResponseError) else error


def _refusal(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error) or type(error).__name__


def _verdict(error: Exception) -> str:
    return getattr(error, "verify_message", "") or type(error).__name__
