"""The environment as settings, and every mistake in it in words."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.config import settings
from datafile_sidecar.config.parsers import Address
from datafile_sidecar.config.settings import Settings, SettingsError
from datafile_sidecar.core.url_policy import UrlPolicy
from datafile_sidecar.volume.directory import Volume, VolumeError
from datafile_sidecar.volume.status_file import Status

KEYS = {"DATAFILE_SDK_KEYS": "KEY1"}


def problems(**variables: str) -> list[str]:
    with pytest.raises(SettingsError) as error:
        settings.load(KEYS | {f"DATAFILE_{name}": value for name, value in variables.items()})
    return error.value.problems


def load(**variables: str) -> Settings:
    return settings.load(KEYS | {f"DATAFILE_{name}": value for name, value in variables.items()})


def test_defaults() -> None:
    """With SDK keys alone the sidecar runs as documented."""
    assert settings.load(KEYS) == Settings(
        sdk_keys=("KEY1",),
        dir=Path("/var/run/datafile"),
        poll_interval_s=60,
        bootstrap_after_s=5,
        rollback_after_s=900,
        webhook_listen=Address("", 8089),
        admin_listen=Address("", 8088),
        log_level="info",
    )


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("SDK_KEYS", "KEY1\n", "sdk_keys", ("KEY1",)),
        ("SDK_KEYS", " a-B_9 , KEY1,a-B_9", "sdk_keys", ("a-B_9", "KEY1")),
        ("DIR", " /x/y\n", "dir", Path("/x/y")),
        ("DIR", "", "dir", Path("/var/run/datafile")),
        ("WEBHOOK_SECRETS_PATH", "/s", "webhook_secrets_path", Path("/s")),
        ("WEBHOOK_SECRETS", "old,new,", "webhook_secrets", (b"old", b"new")),
        ("WEBHOOK_SECRETS", "\udce9\udcff,ü", "webhook_secrets", (b"\xe9\xff", "ü".encode())),
        ("ACCESS_TOKENS_PATH", "/t", "access_tokens_path", Path("/t")),
        (
            "URL_TEMPLATE",
            "http://127.0.0.1:9/d/{sdk_key}.json\n",
            "url_template",
            "http://127.0.0.1:9/d/{sdk_key}.json",
        ),
        ("URL_TEMPLATE", "https://[::1]:9/{sdk_key}", "url_template", "https://[::1]:9/{sdk_key}"),
        ("POLL_INTERVAL_S", "0", "poll_interval_s", 0),
        ("POLL_INTERVAL_S", "1.5", "poll_interval_s", 1.5),
        ("POLL_INTERVAL_S", "\n", "poll_interval_s", 60),
        ("BOOTSTRAP_DIR", "/b", "bootstrap_dir", Path("/b")),
        ("BOOTSTRAP_AFTER_S", "0", "bootstrap_after_s", 0),
        ("ROLLBACK_AFTER_S", "1e3", "rollback_after_s", 1000),
        ("WEBHOOK_LISTEN", ":0", "webhook_listen", Address("", 0)),
        ("WEBHOOK_LISTEN", "127.0.0.1:65535", "webhook_listen", Address("127.0.0.1", 65535)),
        ("ADMIN_LISTEN", "[::1]:80", "admin_listen", Address("::1", 80)),
        ("ADMIN_LISTEN", "localhost:80", "admin_listen", Address("localhost", 80)),
        ("LOG_LEVEL", " DEBUG", "log_level", "debug"),
        ("LOG_FORMAT", "console", "log_format", "console"),
        ("LOG_FORMAT", "", "log_format", None),
    ],
)
def test_variable(name: str, text: str, field: str, value: object) -> None:
    """Each variable means what the table says; white space around it, an empty item and a doubled key do no harm."""
    assert getattr(load(**{name: text}), field) == value


MISTAKES = {
    ("SDK_KEYS", "empty"): ["", "  ", "KEY1,,KEY2", "KEY1,"],
    ("SDK_KEYS", "not an SDK key"): ["undefined", "NULL", "KEY1,None"],
    ("SDK_KEYS", "letters, digits"): ["../../etc", "KEY1?x=", "KEY 1", "KEY1.status", "clé", "KEY\u0661", "a/b"],
    ("SDK_KEYS", "room for 221"): ["x" * 222, "KEY1," + "x" * 100_000],
    ("WEBHOOK_SECRETS", "no secret"): ["", " ", ",", "\n,\t", "\ufeff", " \ufeff,"],
    ("WEBHOOK_SECRETS_PATH", "empty"): ["", "\n"],
    ("URL_TEMPLATE", "{sdk_key} once"): ["https://cdn.test/KEY1.json", "https://h/{sdk_key}/{sdk_key}"],
    ("URL_TEMPLATE", "URL"): [
        *("{sdk_key}", "ftp://h/{sdk_key}", "file:///{sdk_key}", "https:///{sdk_key}", "https://h%41/{sdk_key}"),
        *("https://h:99999/{sdk_key}", "https://h:0/{sdk_key}", "https://h:x/{sdk_key}", "https://[::1/{sdk_key}"),
        *("https://h/ {sdk_key}", "https://é/{sdk_key}"),
    ],
    ("URL_TEMPLATE", "path"): ["https://{sdk_key}.h/x", "https://h?{sdk_key}"],
    ("URL_TEMPLATE", "ACCESS_TOKENS_PATH"): ["https://user:hunter2@h/{sdk_key}", "https://:hunter2@h/{sdk_key}"],
    ("POLL_INTERVAL_S", "seconds"): ["-1", "x", "nan", "inf", "1e999", "60s", "1,5"],
    ("POLL_INTERVAL_S", "too short"): ["0.5"],
    ("BOOTSTRAP_AFTER_S", "seconds"): ["-1", "x"],
    ("ROLLBACK_AFTER_S", "seconds"): ["-1", "nan"],
    ("WEBHOOK_LISTEN", "not an address"): ["8089", ":", ":x", ":-1", ":65536", ":80a", "h:", "::1:80", "[::1]"],
    ("ADMIN_LISTEN", "not an address"): ["[::1]x:80", "[h]:80", "http://h:80", "a b:80", ":\u0663", ":" + "9" * 5000],
    ("LOG_LEVEL", "debug, info, warning, error"): ["loud"],
    ("LOG_FORMAT", "console, json"): ["xml"],
}


@pytest.mark.parametrize(
    ("name", "text", "words"), [(name, text, words) for (name, words), texts in MISTAKES.items() for text in texts]
)
def test_mistake(name: str, text: str, words: str) -> None:
    """A mistake is told in one sentence that names the variable and what is right, and shows no password."""
    [problem] = problems(**{name: text})
    assert problem.startswith(f"DATAFILE_{name}: ")
    assert words in problem
    assert "hunter2" not in problem
    assert len(problem) < 250


def test_longest_key(tmp_path: Path) -> None:
    """A key that is accepted fits into every file name that the sidecar makes of it; one that is longer does not."""
    volume = Volume(tmp_path)

    def publish(key: str) -> None:
        status = Status(sdk_key=key, revision=1, sha256="", size=2, trigger="poll", generation=0)
        volume.publish(b"{}", status)

    [key] = load(SDK_KEYS="x" * 221).sdk_keys
    publish(key)
    with pytest.raises(VolumeError, match="File name too long"):
        publish(key + "x")


def test_every_wrong_key() -> None:
    """Of several SDK keys that are none, each is told."""
    [problem] = problems(SDK_KEYS="undefined,KEY1,a/b")
    assert "'undefined' is a placeholder for a missing value" in problem
    assert "'a/b' is not an SDK key" in problem


@pytest.mark.parametrize("empty", ["", " "])
def test_a_forgotten_annotation(empty: str) -> None:
    """In Kubernetes, a pod without the annotation reads in the sidecar's log what it is called and where it belongs."""
    [problem] = problems(SDK_KEYS=empty)
    assert "the annotation datafile-sidecar/sdk-keys of the pod template" in problem


def test_all_at_once() -> None:
    """Somebody with five mistakes is told of all five, and mends them in one go."""
    found = all_problems(
        {
            "DATAFILE_POLL_INTERVAL_S": "x",
            "DATAFILE_WEBHOOK_LISTEN": "x",
            "DATAFILE_LOG_LEVEL": "x",
            "DATAFILE_WEBHOOK_SECRETS": "",
        }
    )
    assert [problem.split(":")[0].split(" ")[0] for problem in found] == [
        "DATAFILE_SDK_KEYS",
        "DATAFILE_WEBHOOK_SECRETS",
        "DATAFILE_POLL_INTERVAL_S",
        "DATAFILE_WEBHOOK_LISTEN",
        "DATAFILE_LOG_LEVEL",
    ]


def all_problems(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as error:
        settings.load(environ)
    return error.value.problems


def secrets_in(environ: dict[str, str]) -> tuple[tuple[bytes, ...], Path | None]:
    loaded = settings.load_partial(environ, "webhook_secrets", "webhook_secrets_path")
    return loaded.webhook_secrets, loaded.webhook_secrets_path


def test_secrets_alone() -> None:
    """The commands that only sign need no SDK keys, and refuse a secret that is none all the same."""
    assert secrets_in({"DATAFILE_WEBHOOK_SECRETS": "a", "DATAFILE_POLL_INTERVAL_S": "x"}) == ((b"a",), None)
    assert secrets_in({"DATAFILE_WEBHOOK_SECRETS_PATH": "/s"}) == ((), Path("/s"))
    assert secrets_in({}) == ((), None)
    with pytest.raises(SettingsError):
        secrets_in({"DATAFILE_WEBHOOK_SECRETS": ""})


def test_repr() -> None:
    """Settings that end up in a log or a traceback show no secret."""
    assert "hunter2" not in repr(load(WEBHOOK_SECRETS="hunter2"))


@pytest.mark.parametrize("service", ["DATAFILE", "DATAFILE_SIDECAR", "DATAFILE_DIR", "DATAFILE_WEBHOOK"])
def test_service_links(service: str) -> None:
    """A Service that is called like us does no harm: what Kubernetes sets for it is no setting and no mistake."""
    links = {
        f"{service}_SERVICE_HOST": "10.43.0.1",
        f"{service}_SERVICE_PORT": "8080",
        f"{service}_SERVICE_PORT_HTTP_WEB": "8080",
        f"{service}_PORT": "tcp://10.43.0.1:8080",
        f"{service}_PORT_8080_TCP": "tcp://10.43.0.1:8080",
        f"{service}_PORT_8080_TCP_PROTO": "tcp",
        f"{service}_PORT_8080_TCP_PORT": "8080",
        f"{service}_PORT_8080_TCP_ADDR": "10.43.0.1",
    }
    assert settings.load(KEYS | links) == settings.load(KEYS)
    assert settings.unknown(KEYS | links) == {}


def test_no_setting_looks_like_a_service_link() -> None:
    """None of our own names can be set by Kubernetes for a Service."""
    names = {variable.name for variable in settings.VARIABLES}
    assert not {name for name in names if name.endswith(("_HOST", "_PORT")) or "_SERVICE_" in name or "_PORT_" in name}


@pytest.mark.parametrize(
    ("name", "value", "nearest"),
    [
        ("DATAFILE_SDK_KEY", "KEY1", "DATAFILE_SDK_KEYS"),
        ("DATAFILE_POLL_INTERVAL", "5", "DATAFILE_POLL_INTERVAL_S"),
        ("DATAFILE_ADMIN_PORT", "9000", "DATAFILE_ADMIN_LISTEN"),
        ("DATAFILE_ZZZZZZZZZZZZZZZZ", "1", None),
    ],
)
def test_unknown(name: str, value: str, nearest: str | None) -> None:
    """A misspelt variable is noticed, with the name that was meant, and does not keep the sidecar from starting."""
    assert settings.unknown(KEYS | {name: value, "PATH": "/bin", "OTHER_DATAFILE_X": "1"}) == {name: nearest}
    assert settings.load(KEYS | {name: value}) == settings.load(KEYS)


def test_every_variable_fills_a_field() -> None:
    """The documented table and the settings are the same list."""
    assert [variable.field for variable in settings.VARIABLES] == list(Settings.__dataclass_fields__)
    assert all(variable.meaning and variable.default for variable in settings.VARIABLES)


@given(st.dictionaries(st.sampled_from([v.name for v in settings.VARIABLES]), st.text(max_size=30)))
def test_any_text(environ: dict[str, str]) -> None:
    """Whatever stands in the environment, the answer is settings or problems in words, one for each variable at most."""
    try:
        loaded = settings.load(environ)
    except SettingsError as error:
        found = error.problems
        assert 0 < len(found) <= len(settings.VARIABLES)
    else:
        assert loaded.sdk_keys


_PARTS = st.sampled_from(
    [
        *("http", "https", "ftp", "://", "/", "h", "127.0.0.1", "[::1]", ":", "8080", "99999", "{sdk_key}", ".json"),
        *("?", "#", "@", "%", "..", "{", "}", "\\", "u:p@", " ", "é", "\x00"),
    ]
)


@given(
    st.lists(_PARTS, max_size=8).map("".join)
    | st.lists(_PARTS, max_size=5).map(lambda p: f"http://h/{{sdk_key}}{''.join(p)}")
)
def test_url_template_is_usable(template: str) -> None:
    """A template that the settings take never fails later: the sidecar starts with it, and can ask it."""
    try:
        loaded = load(URL_TEMPLATE=template)
    except SettingsError:
        return
    if loaded.url_template:
        url = UrlPolicy(loaded.url_template).url("KEY1")
        assert UrlPolicy(loaded.url_template).permits(url, "KEY1")


@given(
    st.lists(st.sampled_from(["[", "]", ":", "::1", "h", "127.0.0.1", "80", "0", " ", "65536"]), max_size=6).map(
        "".join
    )
)
def test_address_is_whole(text: str) -> None:
    """An address that the settings take has a host without brackets or blanks and a port that exists."""
    try:
        address = load(ADMIN_LISTEN=text).admin_listen
    except SettingsError:
        return
    assert 0 <= address.port <= 65535
    assert not set(itertools.chain(address.host)) & set("[] ")
