"""Whom we trust over TLS: read when first needed and again after a failure, so that a mended bundle needs no restart."""

import asyncio
import ssl
from pathlib import Path


class TrustError(Exception):
    """SSL_CERT_FILE is set and can't be used."""


class Trust:
    """The certificates of SSL_CERT_FILE and of the system, read beside the event loop: their mount may hang."""

    def __init__(self, cert_file: str | None) -> None:
        self._cert_file = cert_file
        self._reading: asyncio.Future[ssl.SSLContext] | None = None

    async def context(self) -> ssl.SSLContext:
        """What TLS is made with. Raises TrustError. While one thread reads, no other begins."""
        if self._reading is None:
            self._reading = asyncio.get_running_loop().run_in_executor(None, _read, self._cert_file)
            self._reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._reading)

    def doubt(self) -> None:
        """A connection failed by it: read it again, if that is not being done."""
        if self._reading is not None and self._reading.done():
            self._reading = None


def _read(cert_file: str | None) -> ssl.SSLContext:
    """OpenSSL's own defaults (which honour SSL_CERT_FILE and SSL_CERT_DIR), and the file: OpenSSL is silent about a bad one."""
    context = ssl.create_default_context()
    if cert_file:
        try:
            context.load_verify_locations(cafile=Path(cert_file))
        except OSError as error:  # ssl.SSLError is one
            cause = "holds no PEM certificates" if isinstance(error, ssl.SSLError) else error.strerror
            raise TrustError(f"SSL_CERT_FILE={cert_file} can't be used: {cause}") from error
    return context
