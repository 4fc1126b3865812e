"""The URL of the broker: what it can say, and that no mistake in it shows the password."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core.broker_url import BrokerKind, BrokerUrl


@pytest.mark.parametrize(
    ("text", "kind", "hosts", "database", "master"),
    [
        ("redis://broker", BrokerKind.SERVER, (("broker", 6379),), 0, ""),
        ("redis://[::1]:6380/3", BrokerKind.SERVER, (("::1", 6380),), 3, ""),
        ("redis-sentinel://a,b:26380/2#flags", BrokerKind.SENTINELS, (("a", 26379), ("b", 26380)), 2, "flags"),
        (
            "redis-sentinel://[fd00::1]:1,b#my.master-1",
            BrokerKind.SENTINELS,
            (("fd00::1", 1), ("b", 26379)),
            0,
            "my.master-1",
        ),
        ("redis+cluster://a:7000,b", BrokerKind.CLUSTER, (("a", 7000), ("b", 6379)), 0, ""),
    ],
)
@pytest.mark.parametrize("is_tls", [False, True])
def test_each_kind_of_broker_has_a_form(
    text: str, kind: BrokerKind, hosts: tuple[tuple[str, int], ...], database: int, master: str, is_tls: bool
) -> None:
    """One server, Sentinels and a cluster: with default ports, several hosts, IPv6 addresses, and TLS by one more `s`."""
    url = BrokerUrl.parse(text.replace("redis", "rediss", 1) if is_tls else text)
    assert (url.kind, url.hosts, url.database, url.master, url.is_tls) == (kind, hosts, database, master, is_tls)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("redis://:hunter2@a,b", "redis-sentinel://.*redis[+]cluster://"),
        ("redis-sentinel://:hunter2@a,b", "#mymaster"),
        ("redis-sentinel://:hunter2@a,b#my/master", "#mymaster"),
        ("redis+cluster://:hunter2@a/1", "only database 0"),
        ("redis+cluster://:hunter2@a#flags", "only a database number"),
        ("redis-sentinel://:hunter2@a,,b#flags", "not a URL"),
        ("redis-sentinel://:hunter2@a:65536#flags", "between 1 and 65535"),
        ("redis+sentinel://:hunter2@a#flags", "write redis://"),
        ("rediss+rediss://:hunter2@a", "write redis://"),
    ],
)
def test_a_mistake_is_named_with_what_to_write(text: str, says: str) -> None:
    """Each error says what to write, and none quotes the URL."""
    with pytest.raises(ValueError, match=says) as caught:
        BrokerUrl.parse(text)
    assert "hunter2" not in str(caught.value)


@given(st.text(max_size=20), st.text(max_size=20))
def test_user_and_password_reach_the_server_as_they_were_meant(username: str, password: str) -> None:
    """Whatever characters they have, the URL of a server that a Sentinel named says the same."""
    one = BrokerUrl(BrokerKind.SERVER, (("::1", 1),), True, username or None, password or None, 0, "")
    try:
        again = BrokerUrl.parse(one.server("::1", 1))
    except UnicodeEncodeError:  # half of a surrogate pair
        return
    assert (again.username, again.password or None, again.hosts) == (one.username, one.password, one.hosts)
    assert "password=" not in repr(one)


@given(st.text(max_size=60), st.sampled_from(["", "redis://", "rediss-sentinel://", "redis+cluster://"]))
def test_anything_else_is_a_mistake_of_the_user(text: str, scheme: str) -> None:
    """No text raises anything but ValueError."""
    with suppress(ValueError):
        assert BrokerUrl.parse(scheme + text).hosts
