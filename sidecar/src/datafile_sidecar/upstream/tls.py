"""The TLS context for connections to upstream. A CA file is read again after a failure, so replacing it needs no restart."""

import ssl
from functools import partial

from datafile_sidecar.network.single_flight import SingleFlight


class CaFileError(Exception):
    """The file named by SSL_CERT_FILE can't be used."""


class TlsContext:
    """A TLS context that trusts the system's CAs and SSL_CERT_FILE.

    Files are read in a thread, because a mounted volume may hang. There is at most one such thread.
    """

    def __init__(self, ca_file: str | None) -> None:
        self._load = SingleFlight(partial(_load, ca_file), "TLS context")
        self._context: ssl.SSLContext | None = None

    async def get(self) -> ssl.SSLContext:
        """Return the context, loading it if necessary.

        Raises:
            CaFileError: SSL_CERT_FILE can't be used.
        """
        if self._context is None:
            self._context = await self._load.result()
        return self._context

    def invalidate(self) -> None:
        """Load the files again for the next connection, unless that is already happening."""
        self._context = None


def _load(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file:
        # OpenSSL already reads SSL_CERT_FILE by default, but ignores a missing or invalid file without an error.
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:  # ssl.SSLError is a subclass
            cause = "holds no PEM certificates" if isinstance(error, ssl.SSLError) else error.strerror
            raise CaFileError(f"SSL_CERT_FILE={ca_file} can't be used: {cause}") from error
    return context
