"""Whom we trust over TLS."""

import ssl
from pathlib import Path


class TrustError(Exception):
    """SSL_CERT_FILE is set and can't be used."""


def trusting(cert_file: str | None) -> ssl.SSLContext:
    """OpenSSL's own defaults (which honour SSL_CERT_FILE and SSL_CERT_DIR), and the file: OpenSSL is silent about a bad one."""
    context = ssl.create_default_context()
    if cert_file:
        try:
            context.load_verify_locations(cafile=Path(cert_file))
        except OSError as error:  # ssl.SSLError is one
            cause = "holds no PEM certificates" if isinstance(error, ssl.SSLError) else error.strerror
            raise TrustError(f"SSL_CERT_FILE={cert_file} can't be used: {cause}") from error
    return context
