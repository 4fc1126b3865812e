"""Which URLs may be fetched: the table, and what no URL from outside can ever do."""

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core.url_policy import (
    OPTIMIZELY_HOSTS,
    UrlPolicy,
    is_downgrade,
    origin,
    redirect_target,
    without_query,
)

KEY = "KEY1"
CDN = UrlPolicy("https://cdn.optimizely.com/datafiles/{sdk_key}.json")
MIRROR = UrlPolicy("http://mirror.corp:8080/flags/{sdk_key}.json?sig=a%20b")


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.optimizely.com/datafiles/KEY1.json",
        "https://cdn.optimizely.com:443/datafiles/KEY1.json",
        "HTTPS://CDN.Optimizely.com/json/KEY1.json",
        "https://config.optimizely.com/datafiles/auth/KEY1.json",
        "https://optimizely.s3.amazonaws.com/datafiles/KEY1.json",
        "https://optimizely.s3.amazonaws.com/KEY1.json",
        "http://mirror.corp:8080/flags/KEY1.json?sig=a%20b",
        "http://mirror.corp:8080/flags/KEY1.json",
        "http://MIRROR.corp:8080/other/KEY1.json",
    ],
)
def test_allowed_urls_are_permitted(url: str) -> None:
    """The user's webhook may name Optimizely's hosts, or the mirror that the operator configured."""
    assert MIRROR.permits(url, KEY)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "KEY1.json",
        "//cdn.optimizely.com/KEY1.json",
        "cdn.optimizely.com/datafiles/KEY1.json",
        "http://cdn.optimizely.com/datafiles/KEY1.json",
        "ftp://cdn.optimizely.com/datafiles/KEY1.json",
        "file:///datafiles/KEY1.json",
        "https://cdn.optimizely.com:8443/datafiles/KEY1.json",
        "https://cdn.optimizely.com:/datafiles/KEY1.json",
        "https://cdn.optimizely.com:0443/datafiles/KEY2.json",
        "https://cdn.optimizely.com./datafiles/KEY1.json",
        "https://cdn.optimizely.com.evil.test/datafiles/KEY1.json",
        "https://evil-cdn.optimizely.com/datafiles/KEY1.json",
        "https://www.cdn.optimizely.com/datafiles/KEY1.json",
        "https://optimizely.com/datafiles/KEY1.json",
        "https://s3.amazonaws.com/optimizely/KEY1.json",
        "https://cdn.optimizely.com@evil.test/datafiles/KEY1.json",
        "https://user@cdn.optimizely.com/datafiles/KEY1.json",
        "https://user:pass@cdn.optimizely.com/datafiles/KEY1.json",
        "https://evil.test\\@cdn.optimizely.com/datafiles/KEY1.json",
        "https://cdn.optimizely.com\\.evil.test/KEY1.json",
        "https://evil.test#cdn.optimizely.com/KEY1.json",
        "https://evil.test?cdn.optimizely.com/KEY1.json",
        "https://cdn.optim\N{CYRILLIC SMALL LETTER I}zely.com/KEY1.json",
        "https://cdn.optimizely.com/KEY1.json?x=1",
        "https://cdn.optimizely.com/KEY1.json#x",
        "https://cdn.optimizely.com/x?/KEY1.json",
        "https://cdn.optimizely.com/x#/KEY1.json",
        "https://cdn.optimizely.com/../KEY1.json",
        "https://cdn.optimizely.com/a/./KEY1.json",
        "https://cdn.optimizely.com//KEY1.json",
        "https://cdn.optimizely.com/.hidden/KEY1.json",
        "https://cdn.optimizely.com/%2e%2e/KEY1.json",
        "https://cdn.optimizely.com/a;b/KEY1.json",
        "https://cdn.optimizely.com/a b/KEY1.json",
        "https://cdn.optimizely.com/KEY1.json\n",
        "https://cdn.optimizely.com/KEY1.json\r\nX: 1",
        " https://cdn.optimizely.com/KEY1.json",
        "https://cdn.optimizely.com\t/KEY1.json",
        "https://cdn.optimizely.com/KEY1.json/",
        "https://cdn.optimizely.com/KEY1.json/x",
        "https://cdn.optimizely.com/KEY1",
        "https://cdn.optimizely.com/xKEY1.json",
        "https://cdn.optimizely.com/key1.json",
        "https://cdn.optimizely.com/KEY2.json",
        "https://cdn.optimizely.com/KEY1.json.json",
        "https://cdn.optimizely.com",
        "http://mirror.corp/flags/KEY1.json",
        "http://mirror.corp:8081/flags/KEY1.json",
        "https://mirror.corp:8080/flags/KEY1.json",
        "http://mirror.corp:8080/flags/KEY1.json?sig=other",
        "http://169.254.169.254/latest/KEY1.json",
        "http://127.0.0.1:9099/KEY1.json",
        "http://[::1]:8080/KEY1.json",
    ],
)
def test_every_other_url_is_refused(url: str) -> None:
    """The user with a leaked webhook secret has no sidecar that fetches for strangers."""
    assert not MIRROR.permits(url, KEY)


def test_a_port_that_is_the_default_one_is_the_same_origin() -> None:
    """The user may spell the default port or leave it out."""
    spelled = UrlPolicy("https://mirror.corp:443/{sdk_key}.json")
    assert spelled.permits("https://mirror.corp/a/KEY1.json", KEY)
    assert spelled.is_template_origin("https://MIRROR.corp/whatever", KEY)


def test_only_the_templates_origin_is_template_origin() -> None:
    """The user's token stays with the scheme, host and port that were configured."""
    assert CDN.is_template_origin(CDN.url(KEY), KEY)
    for url in (
        "http://cdn.optimizely.com/datafiles/KEY1.json",
        "https://cdn.optimizely.com:444/datafiles/KEY1.json",
        "https://config.optimizely.com/datafiles/auth/KEY1.json",
        "https://cdn.optimizely.com@evil.test/KEY1.json",
        "https://cdn.optimizely.com.evil.test/KEY1.json",
        "",
    ):
        assert not CDN.is_template_origin(url, KEY)


hosts = st.sampled_from([*sorted(OPTIMIZELY_HOSTS), "evil.test", "mirror.corp:8080", "cdn.optimizely.com:80"])
pieces = st.lists(
    st.sampled_from(["/", "KEY1.json", ".", "..", "?", "#", "@", ":", "\\", "%2f", "KEY2.json", "a", " ", "\n", "//"])
)


@given(st.sampled_from(["http", "https", "HTTPS", "file", ""]), st.sampled_from(["://", ":", "://x@"]), hosts, pieces)
def test_what_is_permitted_means_the_same_to_another_parser(
    scheme: str, marks: str, host: str, rest: list[str]
) -> None:
    """The user is safe from URLs that two parsers read differently: a permitted one has an allowed host by urllib, too."""
    url = f"{scheme}{marks}{host}{''.join(rest)}"
    if MIRROR.permits(url, KEY):
        parts = urlsplit(url)
        assert (parts.scheme, parts.hostname, parts.port) == ("http", "mirror.corp", 8080) or (
            parts.scheme == "https" and parts.hostname in OPTIMIZELY_HOSTS and parts.port in {None, 443}
        )
        assert parts.path.endswith("/KEY1.json")
        assert (parts.query, parts.fragment, parts.username) == ("", "", None)


@given(st.text())
def test_no_text_raises_an_error(text: str) -> None:
    """The user's webhook endpoint survives whatever stands where a URL should be."""
    assert not MIRROR.permits(text, KEY)
    assert origin(f"\x00{text}") is None
    redirect_target(MIRROR.url(KEY), text)
    redirect_target(MIRROR.url(KEY), f"//[{text}")


@pytest.mark.parametrize(
    ("url", "target", "worse"),
    [
        ("https://a/b", "http://a/b", True),
        ("HTTPS://a/b", "http://a/b", True),
        ("https://a/b", "", True),
        ("https://a/b", "HTTPS://a/c", False),
        ("http://a/b", "http://a/c", False),
        ("http://a/b", "https://a/c", False),
    ],
)
def test_leaving_https_is_noticed(url: str, target: str, worse: bool) -> None:
    """The user's datafile never goes from https to the clear."""
    assert is_downgrade(url, target) is worse


@pytest.mark.parametrize(
    "template",
    [
        "",
        "https://cdn.optimizely.com/datafiles/KEY1.json",
        "cdn.optimizely.com/{sdk_key}.json",
        "ftp://cdn.optimizely.com/{sdk_key}.json",
        "https://user:pass@cdn.optimizely.com/{sdk_key}.json",
        "https://{sdk_key}",
        "https:///{sdk_key}.json",
    ],
)
def test_a_template_that_cannot_work_is_refused_at_once(template: str) -> None:
    """The user reads of a useless template at the start; a password in it is not repeated."""
    with pytest.raises(ValueError, match="the URL template") as caught:
        UrlPolicy(template)
    assert "pass@" not in str(caught.value)


def test_a_query_is_not_shown() -> None:
    """The user whose mirror wants a signature in the query does not find it in the logs."""
    assert without_query(MIRROR.url(KEY)) == "http://mirror.corp:8080/flags/KEY1.json"
