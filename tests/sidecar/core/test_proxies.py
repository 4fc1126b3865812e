"""Which proxy a URL goes through, as the usual variables say it."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core.proxies import Proxies, Proxy, ProxyError

URL = "https://cdn.test/datafiles/KEY1.json"
PROXY = "http://proxy.corp:3128"


@pytest.mark.parametrize(
    ("environ", "url", "expected"),
    [
        ({}, URL, None),
        ({"HTTPS_PROXY": PROXY}, URL, PROXY),
        ({"https_proxy": PROXY}, URL, PROXY),
        ({"HTTPS_PROXY": "http://old:1", "https_proxy": PROXY}, URL, PROXY),
        ({"HTTPS_PROXY": PROXY, "https_proxy": ""}, URL, None),
        ({"HTTPS_PROXY": PROXY}, "http://cdn.test/x", None),
        ({"HTTP_PROXY": PROXY}, URL, None),
        ({"HTTP_PROXY": PROXY}, "http://cdn.test/x", PROXY),
        ({"ALL_PROXY": PROXY}, URL, PROXY),
        ({"ALL_PROXY": PROXY}, "http://cdn.test/x", PROXY),
        ({"ALL_PROXY": "http://other:1", "HTTPS_PROXY": PROXY}, URL, PROXY),
        ({"HTTPS_PROXY": " proxy.corp:3128 "}, URL, PROXY),
        ({"HTTPS_PROXY": "http://proxy.corp"}, URL, "http://proxy.corp:80"),
        ({"HTTPS_PROXY": "https://proxy.corp"}, URL, "https://proxy.corp:443"),
        ({"HTTPS_PROXY": "http://[fd00::1]:3128/"}, URL, "http://[fd00::1]:3128"),
    ],
)
def test_the_usual_variables_choose_the_proxy(environ: dict[str, str], url: str, expected: str | None) -> None:
    """The user's cluster-wide proxy settings mean here what they mean to curl and to Python."""
    result = Proxies(environ).proxy_for(url)
    assert result == (expected and Proxy(expected))


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("*", URL, True),
        ("cdn.test", URL, True),
        ("CDN.TEST", URL, True),
        (".test", URL, True),
        ("*.test", URL, True),
        ("test", URL, True),
        ("cdn.test.", URL, True),
        ("cdn.test", "https://CDN.test./x", True),
        ("dn.test", URL, False),
        ("a.cdn.test", URL, False),
        ("other.test, cdn.test", URL, True),
        ("other.test cdn.test", URL, True),
        ("cdn.test:443", URL, True),
        ("cdn.test:8443", URL, False),
        ("cdn.test:8443", "https://cdn.test:8443/x", True),
        ("127.0.0.1", "https://127.0.0.1:9000/x", True),
        ("127.0.0.1:9000", "https://127.0.0.1:9000/x", True),
        ("127.0.0.1:9001", "https://127.0.0.1:9000/x", False),
        ("10.0.0.0/8", "https://10.1.2.3/x", True),
        ("10.0.0.1/8", "https://10.1.2.3/x", True),
        ("10.0.0.0/8", "https://11.1.2.3/x", False),
        ("10.0.0.0/8", URL, False),
        ("fd00::/8", "https://[fd12::1]/x", True),
        ("[::1]:443", "https://[::1]/x", True),
        ("::1", "https://[::1]:8443/x", True),
        ("0.0.0.0/0", "https://[::1]/x", False),
        ("10.0.0.0/99", "https://10.1.2.3/x", False),
        ("", URL, False),
        (",, ,", URL, False),
        (".", URL, False),
        (":443", URL, False),
    ],
)
def test_no_proxy_names_what_is_asked_directly(no_proxy: str, url: str, direct: bool) -> None:
    """The user's names, suffixes, addresses, networks and ports in NO_PROXY are kept off the proxy, and nothing else is."""
    for environ in ({"NO_PROXY": no_proxy}, {"no_proxy": no_proxy, "NO_PROXY": "wrong"}):
        result = Proxies({"HTTPS_PROXY": PROXY, **environ}).proxy_for(url)
        assert (result is None) is direct


def test_credentials_are_decoded_and_hidden() -> None:
    """The user's proxy password arrives as it was meant, and stands in no repr."""
    proxies = Proxies({"HTTPS_PROXY": "http://ann%40corp:p%3Aw@proxy.corp:3128"})
    result = proxies.proxy_for(URL)
    assert result == Proxy(PROXY, "Basic YW5uQGNvcnA6cDp3")
    assert "p%3Aw" not in f"{proxies!r}{result!r}"
    assert "YW5u" not in repr(result)


@pytest.mark.parametrize(
    "setting",
    ["socks5://u:hunter2@h:1", "http://u:hunter2@h:x", "http://u:hunter2@h:99999", "http://", "://", "http://[::1"],
)
def test_a_useless_setting_is_an_error_that_hides_it(setting: str) -> None:
    """The user reads which variable is wrong; traffic does not silently go past the proxy, and no password is shown."""
    with pytest.raises(ProxyError, match="HTTPS_PROXY or ALL_PROXY") as caught:
        Proxies({"HTTPS_PROXY": setting}).proxy_for(URL)
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None
    assert "hunter2" not in str(caught.value)


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_setting_raises_anything_else(setting: str, no_proxy: str) -> None:
    """The user with a strange environment gets a working sidecar or an error in words."""
    proxies = Proxies({"HTTPS_PROXY": setting, "NO_PROXY": no_proxy})
    with contextlib.suppress(ProxyError):
        proxies.proxy_for(URL)
