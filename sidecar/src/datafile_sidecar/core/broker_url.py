"""The URL of the broker: one server, the Sentinels that know the master, or nodes of a cluster.

It may contain a password, so no error quotes it.
"""

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit


class BrokerKind(Enum):
    """What the hosts in the URL are."""

    SERVER = "server"
    SENTINELS = "Sentinels"
    CLUSTER = "cluster"


_SCHEMES: Final = {
    "redis": BrokerKind.SERVER,
    "redis-sentinel": BrokerKind.SENTINELS,
    "redis+cluster": BrokerKind.CLUSTER,
}
_PORTS: Final = {BrokerKind.SERVER: 6379, BrokerKind.SENTINELS: 26379, BrokerKind.CLUSTER: 6379}
_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:,@\s]+))(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_MASTER = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_NOT_A_URL: Final = (
    "it is not a URL; in the user name and password, write characters other than letters and digits as %XX"
)
_FORMS: Final = (
    "write redis://user:password@host:port/database, redis-sentinel://user:password@host:port,host:port/database#master or "
    "redis+cluster://user:password@host:port,host:port; with TLS rediss://, rediss-sentinel:// or rediss+cluster://"
)


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """A broker's URL in its parts.

    Attributes:
        kind: What `hosts` are.
        hosts: Names or addresses with ports, as in the URL.
        is_tls: Whether every connection uses TLS.
        username: The user at the servers, None for the default one.
        password: The password at the servers. Sentinels are told it only if they ask for one.
        database: The database's number; 0 in a cluster.
        master: The name by which Sentinels know the master; empty for the other kinds.
    """

    kind: BrokerKind
    hosts: tuple[tuple[str, int], ...]
    is_tls: bool
    username: str | None
    password: str | None = field(repr=False)
    database: int
    master: str

    @classmethod
    def parse(cls, text: str) -> "BrokerUrl":
        """Parse a URL. Raises ValueError, which says what to write and never quotes the URL."""
        parts = _split(text)
        secure = parts.scheme.startswith("rediss")
        kind = _SCHEMES.get(parts.scheme.replace("rediss", "redis", 1) if secure else parts.scheme)
        if kind is None:
            raise ValueError(f"it is not a URL of a broker: {_FORMS}")
        userinfo, at, hosts = parts.netloc.rpartition("@")
        username, colon, password = userinfo.partition(":")
        if parts.query or not re.fullmatch(r"(/[0-9]{0,4})?", parts.path, re.ASCII):
            raise ValueError("only a database number may follow host and port; write / ? # in a password as %XX")
        database = int(parts.path.strip("/") or 0)
        if kind is BrokerKind.CLUSTER and database:
            raise ValueError("a Redis Cluster has only database 0: write no other number after host and port")
        return cls(
            kind=kind,
            hosts=tuple(_parse_host(host, kind) for host in _list(hosts, kind)),
            is_tls=secure,
            username=unquote(username) or None,
            password=unquote(password) if at and colon else None,
            database=database,
            master=_parse_master(parts.fragment, kind),
        )

    def server(self, host: str, port: int, *, with_password: bool = True) -> str:
        """Return the URL of one server, with TLS and user as here and without a database: `redis[s]://…`."""
        userinfo = ""
        if with_password and (self.username or self.password):
            userinfo = f"{quote(self.username or '', safe='')}:{quote(self.password or '', safe='')}@"
        host = f"[{host}]" if ":" in host else host
        return f"redis{'s' if self.is_tls else ''}://{userinfo}{host}:{port}"


def _split(text: str) -> SplitResult:
    url = text.strip()
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(_NOT_A_URL) from None
    if any(character.isspace() for character in url) or not parts.netloc:
        raise ValueError(f"it is not a URL of a broker: {_FORMS}")
    return parts


def _list(hosts: str, kind: BrokerKind) -> list[str]:
    found = hosts.split(",")
    if len(found) > 1 and kind is BrokerKind.SERVER:
        raise ValueError(
            "it names several hosts: write redis-sentinel:// where they are Sentinels, redis+cluster:// where they are nodes "
            "of a cluster"
        )
    return found


def _parse_host(text: str, kind: BrokerKind) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    if match is None:
        raise ValueError(_NOT_A_URL)
    port = int(match["port"] or _PORTS[kind])
    if not 0 < port < 65536:
        raise ValueError("a port in it is not between 1 and 65535")
    return match["ipv6"] or match["name"], port


def _parse_master(fragment: str, kind: BrokerKind) -> str:
    if kind is not BrokerKind.SENTINELS:
        if fragment:
            raise ValueError("only a database number may follow host and port; write / ? # in a password as %XX")
        return ""
    if not _MASTER.fullmatch(fragment):
        raise ValueError("it must end with the name by which the Sentinels know the master: …/0#mymaster")
    return fragment
