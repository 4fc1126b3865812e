"""Webhooks as bytes: the signature, the event, and the keys that it concerns."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafile_sidecar.core.webhook import (
    Attribution,
    DatafileUpdated,
    Environment,
    MalformedWebhookError,
    OtherEvent,
    attribute,
    parse,
    signature,
    verify,
)

SECRET = b"test-secret-1"
BODY = (
    b'{"project_id":1234,"timestamp":1700000000,"event":"project.datafile_updated","data":{"revision":43,'
    b'"origin_url":"http://127.0.0.1:9000/json/1234.json","cdn_url":"http://127.0.0.1:9000/datafiles/KEY1.json",'
    b'"environment":"Production"}}'
)
GOOD = b"sha1=9e5f6e42a74a5b82fd4d1471b210494c0790f92e"
SIGNED_WITH_NOTHING = b"sha1=56fca68c834dd17f7b596491c811ae9f597253c2"


def body(event: object = "project.datafile_updated", project_id: object = 1234, **data: object) -> bytes:
    return json.dumps({"event": event, "project_id": project_id, "data": data}).encode()


class TestVerify:
    @pytest.mark.parametrize(
        "header",
        [GOOD, GOOD.upper(), b" " + GOOD + b"\t"],
        ids=["as Optimizely sends it", "in capitals", "with white space"],
    )
    def test_good(self, header: bytes) -> None:
        """A webhook that Optimizely signed with our secret is taken, whatever a proxy did to the header's case."""
        assert verify(BODY, header, [SECRET])

    @pytest.mark.parametrize(
        "header",
        [
            None, b"", b"sha1=", b"sha1", GOOD[5:], b"sha256=" + GOOD[5:], GOOD + b"0", GOOD[:-1], b"sha1=" + b"0" * 40,
            b"sha1=\xe9", b"sha1=\xc3\xa9", b"sha1=\xff" * 99, b"sha1=" + b"\x00" * 40, SIGNED_WITH_NOTHING,
            GOOD + b", " + GOOD,
        ],
    )  # fmt: skip
    def test_bad(self, header: bytes | None) -> None:
        """Any header is refused plainly, and causes no internal error."""
        assert not verify(BODY, header, [b"old", SECRET])

    def test_changed_body(self) -> None:
        """A signed body with one changed byte, even white space, is refused."""
        assert not verify(BODY + b"\n", GOOD, [SECRET])
        assert not verify(BODY.replace(b"43", b"44"), GOOD, [SECRET])

    def test_wire_bytes(self) -> None:
        """A body that JSON would write differently is verified as it came."""
        odd = '{ "event":"project.flag_updated" ,\n "timestamp":1.70e9,"note":"\u2028é"}\r\n'.encode()
        assert verify(odd, signature(odd, SECRET).encode(), [SECRET])
        assert not verify(odd.strip(), signature(odd, SECRET).encode(), [SECRET])

    @pytest.mark.parametrize("secrets", [[], [b""], [b"", b"other"]])
    def test_empty_secret(self, secrets: list[bytes]) -> None:
        """An empty secret verifies nothing: otherwise anyone could sign."""
        assert not verify(BODY, SIGNED_WITH_NOTHING, secrets)

    @given(st.binary(max_size=80), st.binary(max_size=80), st.lists(st.binary(max_size=40), max_size=3))
    def test_any_bytes(self, content: bytes, header: bytes, secrets: list[bytes]) -> None:
        """Whatever bytes the header and the secret have, the result is yes or no, never an error."""
        assert not verify(content, header, secrets)

    @given(
        st.binary(max_size=200), st.lists(st.binary(max_size=20)), st.binary(min_size=1, max_size=20), st.integers(0)
    )
    def test_rotation(self, content: bytes, others: list[bytes], secret: bytes, place: int) -> None:
        """While a secret is rotated, each configured one verifies, at any position and with any bytes."""
        secrets = [*others]
        secrets.insert(place % (len(others) + 1), secret)
        assert verify(content, signature(content, secret).encode(), secrets)


class TestParse:
    def test_documented_event(self) -> None:
        """The event that Optimizely documents has a revision, a project, an environment and two URLs."""
        urls = ("http://127.0.0.1:9000/json/1234.json", "http://127.0.0.1:9000/datafiles/KEY1.json")
        assert parse(BODY) == DatafileUpdated("1234", 43, "Production", urls, 1700000000.0)

    @pytest.mark.parametrize(
        ("given", "revision"),
        [(43, 43), ("43", 43), (0, 0), (2**63 - 1, 2**63 - 1), (str(2**63 - 1), 2**63 - 1), (None, None), ("007", 7)],
    )
    def test_revision(self, given: object, revision: int | None) -> None:
        """A revision may be sent as a number or as text."""
        event = parse(body(revision=given))
        assert isinstance(event, DatafileUpdated)
        assert event.revision == revision

    @pytest.mark.parametrize(
        "given",
        [
            -1,
            2**63,
            10**30,
            str(2**63),
            "7".zfill(20),
            "x",
            "",
            "-1",
            "1.0",
            " 1",
            "1\n",
            "٣",
            "9" * 5000,
            1.5,
            True,
            [],
            {},
        ],
    )
    def test_no_revision(self, given: object) -> None:
        """A revision that is not a number is refused as malformed."""
        with pytest.raises(MalformedWebhookError):
            parse(body(revision=given))

    @pytest.mark.parametrize(
        ("given", "timestamp"),
        [(b"1700000000", 1.7e9), (b"1.7e9", 1.7e9), (b"1700000000.25", 1700000000.25)]
        + [(one, None) for one in (b"null", b'"1700000000"', b"true", b"[]", b"9" * 400, b"1e400", b"{}")],
    )
    def test_timestamp(self, given: bytes, timestamp: float | None) -> None:
        """A timestamp that is no number of seconds is no reason to reject a webhook."""
        event = parse(b'{"event":"project.datafile_updated","data":{},"timestamp":%b}' % given)
        assert event == DatafileUpdated(None, None, None, (), timestamp)

    @pytest.mark.parametrize(
        ("timestamp", "delay_s"),
        [
            (100000, 0),
            (99998.5, 1.5),
            (100060, 0),
            (100061, None),
            (13600, 86400),
            (13599, None),
            (None, None),
            (-1e300, None),
            (float("inf"), None),
        ],
    )
    def test_delay(self, timestamp: float | None, delay_s: float | None) -> None:
        """A time a little in the future counts as no delay, and one that is far off as unknown."""
        assert DatafileUpdated(None, 1, None, (), timestamp).delay_s(100_000) == delay_s

    def test_old_project(self) -> None:
        """An older project's event, without environment and with empty URLs, is understood."""
        assert parse(body(revision=1, origin_url="", cdn_url="")) == DatafileUpdated("1234", 1, None, ())
        assert parse(b'{"event":"project.datafile_updated","data":{}}') == DatafileUpdated(None, None, None, ())

    def test_withdrawal(self) -> None:
        """Our own event takes a revision back. It is read as an update is, and has to name its revision."""
        withdrawal = json.loads(body(revision=43)) | {"event": "datafile-sidecar.revision_withdrawn"}
        event = parse(json.dumps(withdrawal).encode())
        assert isinstance(event, DatafileUpdated)
        assert (event.revision, event.is_withdrawal) == (43, True)
        del withdrawal["data"]["revision"]
        with pytest.raises(MalformedWebhookError, match="withdraws no revision"):
            parse(json.dumps(withdrawal).encode())

    @pytest.mark.parametrize("project_id", [1234, "1234"])
    def test_project_id(self, project_id: object) -> None:
        """A project's id is the same as number and as text."""
        event = parse(body(project_id=project_id))
        assert isinstance(event, DatafileUpdated)
        assert event.project_id == "1234"

    @pytest.mark.parametrize(
        "sent",
        [
            b'{"project_id":1,"timestamp":1,"event":"project.approval_created","data":[{"change_type":"x"}]}',
            b'{"event":"project.flag_updated"}',
            b'{"event":"project.flag_updated","project_id":{"a":1.5},"data":"x"}',
            b'{"event":"","data":' + b"[" * 400 + b"]" * 400 + b"}",
        ],
    )
    def test_other_events(self, sent: bytes) -> None:
        """Other events of the same webhook are acknowledged, whatever they carry, a list included."""
        assert parse(sent) == OtherEvent()

    @pytest.mark.parametrize(
        "sent",
        [
            b"", b" ", b"[]", b"null", b'"x"', b"1", b"{}", b"{", b"\xff\xfe{}", b"\xef\xbb\xbf{}", b'{"event":null}',
            b'{"event":5}', b'{"event":"project.datafile_updated"}', b'{"event":"project.datafile_updated","data":null}',
            b'{"event":"project.datafile_updated","data":[]}', b'{"event":"project.datafile_updated","data":{"cdn_url":5}}',
            b'{"event":"project.datafile_updated","data":{},"project_id":[1]}', b'{"event":"\\ud800"}', b'{"event":"\xff"}',
            b"[" * 100_000 + b"]" * 100_000, b'{"event":' * 20_000, b'{"project_id":' + b"9" * 5000 + b"}",
            b'{"event":"project.datafile_updated","data":{},"project_id":' + b"9" * 5000 + b"}",
            b'{"event":"project.datafile_updated","data":{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}}",
            BODY + BODY, BODY[:-1],
        ],
        ids=range(26),
    )  # fmt: skip
    def test_malformed(self, sent: bytes) -> None:
        """Signed garbage, deep nesting and endless numbers are malformed."""
        with pytest.raises(MalformedWebhookError):
            parse(sent)

    @pytest.mark.parametrize("long", [{"environment": "x" * 1025}, {"origin_url": "x" * 4097}, {"cdn_url": "x" * 4097}])
    def test_no_field_is_endless(self, long: dict[str, str]) -> None:
        """What a relay remembers of a signed event is small: no name or URL is longer than real ones can be."""
        parse(body(revision=1, **{name: text[1:] for name, text in long.items()}))
        with pytest.raises(MalformedWebhookError):
            parse(body(revision=1, **long))
        for project_id in ("1" * 1025, 2**63):
            with pytest.raises(MalformedWebhookError):
                parse(body(revision=1, project_id=project_id))

    def test_words(self) -> None:
        """The reason says what is wrong and where, and quotes nothing of the body."""
        with pytest.raises(MalformedWebhookError, match="data") as error:
            parse(body(revision=1, cdn_url=["hunter2"]))
        assert "hunter2" not in str(error.value)

    @given(st.binary(max_size=300))
    def test_any_bytes(self, sent: bytes) -> None:
        """Whatever bytes are signed, the result is an event or "malformed"."""
        _parse_or_malformed(sent)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["event", "data", "project_id", "revision", "cdn_url", "environment"]) | st.text(),
                    inner,
                    max_size=5,
                )
            ),
        )
    )
    def test_any_json(self, sent: Any) -> None:
        """Whatever JSON is signed, in the shape of an event or not, the result is an event or "malformed"."""
        _parse_or_malformed(json.dumps(sent).encode())
        _parse_or_malformed(json.dumps({"event": "project.datafile_updated", "project_id": sent, "data": {}}).encode())
        _parse_or_malformed(json.dumps({"event": "project.datafile_updated", "data": sent}).encode())
        _parse_or_malformed(json.dumps({"event": "project.datafile_updated", "data": {"revision": sent}}).encode())


def _parse_or_malformed(sent: bytes) -> None:
    try:
        event = parse(sent)
    except MalformedWebhookError:
        return
    if isinstance(event, DatafileUpdated):
        assert event.revision is None or 0 <= event.revision < 2**63
        assert all(event.urls)
        attribute(event, {"KEY1": Environment("1", "production"), "KEY2": Environment()})


CDN = "https://cdn.optimizely.com/datafiles/{}.json"
OLD = "https://cdn.optimizely.com/json/1234.json"
UNKNOWN, THEIRS = Environment(), Environment("9999", "production")
PRODUCTION, STAGING = Environment("1234", "production"), Environment("1234", "staging")
NAMELESS = Environment("1234")
OURS = {"KEY1": NAMELESS, "KEY2": NAMELESS}


class TestAttribute:
    @pytest.mark.parametrize(
        ("urls", "environments", "announced", "hinted"),
        [
            ((CDN.format("KEY1"),), OURS, ("KEY1",), ()),
            ((OLD, CDN.format("KEY2")), OURS, ("KEY2",), ()),
            ((CDN.format("THEIRS"), CDN.format("KEY1")), OURS, ("KEY1",), ()),
            ((CDN.format("KEY1"), CDN.format("KEY2")), OURS, ("KEY1", "KEY2"), ()),
            (("cdn.optimizely.com/datafiles/KEY1.json?x=1#y",), OURS, ("KEY1",), ()),
            ((CDN.format("KEY1"),), {"KEY1": UNKNOWN}, ("KEY1",), ()),
            ((CDN.format("THEIRS"),), OURS, (), ()),
            ((CDN.format("THEIRS"), OLD), OURS, (), ()),
            ((CDN.format("KEY1"),), {"KEY1": THEIRS}, (), ()),
            ((CDN.format("KEY1"),), {"KEY1": THEIRS, "KEY2": NAMELESS}, (), ()),
            ((), OURS, (), ("KEY1", "KEY2")),
            ((), {"KEY1": NAMELESS, "KEY2": THEIRS, "KEY3": UNKNOWN}, (), ("KEY1", "KEY3")),
            ((), {"KEY1": THEIRS}, (), ()),
            ((OLD,), OURS, (), ("KEY1", "KEY2")),
            ((OLD,), {"KEY1": UNKNOWN}, (), ("KEY1",)),
            ((OLD,), {"1234": NAMELESS}, ("1234",), ()),
            (("http://[broken", "https://x/"), OURS, (), ("KEY1", "KEY2")),
            ((), {}, (), ()),
        ],
        ids=[
            "our key at the end of the URL", "beside an old-style URL", "beside another key", "two of our keys",
            "without a scheme, with query", "no datafile yet", "another environment", "another environment, old-style origin",
            "our key, another project", "our key, the project of our other", "old: no URL", "old: no URL, one project of several",
            "old: another project", "old: the project's id", "old: the project's id, no datafile yet",
            "a key that is the project's id", "URLs that are none", "no keys",
        ],
    )  # fmt: skip
    def test_table(
        self,
        urls: tuple[str, ...],
        environments: dict[str, Environment],
        announced: tuple[str, ...],
        hinted: tuple[str, ...],
    ) -> None:
        """An event concerns the keys that it names; one without names, its project's keys; one for another environment, none."""
        assert attribute(DatafileUpdated("1234", 43, None, urls), environments) == Attribution(announced, hinted)

    def test_no_revision(self) -> None:
        """An event that names our key but no revision is a hint, not an announcement."""
        event = DatafileUpdated("1234", None, None, (CDN.format("KEY1"),))
        assert attribute(event, OURS) == Attribution(hinted=("KEY1",))

    def test_no_project(self) -> None:
        """An event without a project id is ours unless its URLs say otherwise, in the old form too."""
        assert attribute(DatafileUpdated(None, 43, None, (OLD,)), OURS) == Attribution(hinted=("KEY1", "KEY2"))
        assert attribute(DatafileUpdated(None, 43, None, (CDN.format("KEY1"),)), OURS) == Attribution(
            announced=("KEY1",)
        )

    @pytest.mark.parametrize(
        ("environment", "urls", "environments", "announced", "hinted"),
        [
            ("Production", (), {"KEY1": PRODUCTION, "KEY2": STAGING}, ("KEY1",), ()),
            ("Production", (OLD,), {"KEY1": PRODUCTION, "KEY2": STAGING}, ("KEY1",), ()),
            ("staging", (), {"KEY1": PRODUCTION, "KEY2": STAGING}, ("KEY2",), ()),
            ("PRODUCTION", (), {"KEY1": PRODUCTION, "KEY2": PRODUCTION}, ("KEY1", "KEY2"), ()),
            ("Production", (), {"KEY1": PRODUCTION, "KEY2": UNKNOWN, "KEY3": NAMELESS}, ("KEY1",), ("KEY2", "KEY3")),
            ("Production", (), {"KEY1": PRODUCTION, "KEY2": THEIRS}, ("KEY1",), ()),
            ("Prod EU", (), {"KEY1": PRODUCTION, "KEY2": STAGING}, (), ("KEY1", "KEY2")),
            (None, (), {"KEY1": PRODUCTION}, (), ("KEY1",)),
            ("", (), {"KEY1": Environment("1234", "")}, ("KEY1",), ()),
            ("Production", (), {"KEY1": NAMELESS}, (), ("KEY1",)),
            ("Production", (), {"KEY1": Environment(None, "production")}, (), ("KEY1",)),
            ("Production", (CDN.format("KEY2"),), {"KEY1": PRODUCTION, "KEY2": STAGING}, ("KEY2",), ()),
            ("Production", (CDN.format("OTHER"),), {"KEY1": PRODUCTION}, (), ()),
        ],
        ids=[
            "another case", "the project's id in the URL", "the second key", "two keys of one environment",
            "beside keys of which nothing is known", "beside another project", "another name for it", "no environment",
            "an empty name", "no name in the datafile", "no project in the datafile", "the URL decides", "the URL of another key",
        ],
    )  # fmt: skip
    def test_environment(
        self,
        environment: str | None,
        urls: tuple[str, ...],
        environments: dict[str, Environment],
        announced: tuple[str, ...],
        hinted: tuple[str, ...],
    ) -> None:
        """Where no URL names a key, project and environment do; what they don't name stays a hint."""
        assert attribute(DatafileUpdated("1234", 43, environment, urls), environments) == Attribution(announced, hinted)

    def test_environment_without_more(self) -> None:
        """Without a project or a revision, the environment announces nothing."""
        ours = {"KEY1": PRODUCTION, "KEY2": STAGING}
        assert attribute(DatafileUpdated(None, 43, "Production", ()), ours) == Attribution(hinted=("KEY1", "KEY2"))
        assert attribute(DatafileUpdated("1234", None, "Production", ()), ours) == Attribution(hinted=("KEY1",))
