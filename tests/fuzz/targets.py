"""What reads bytes from strangers, and the law that each holds whatever the bytes are.

A target takes bytes and returns, or fails an assertion or lets an exception out: then there is a fault in the product.
"""

import asyncio
import hmac
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from datafile_client._datafile_reader import DatafileReader
from datafile_client._instance_builder import InstanceBuilder
from datafile_client.errors import InvalidDatafileError as UnusableError
from datafile_sidecar.bus.forms import CURRENT, EARLIER, applied
from datafile_sidecar.config import settings
from datafile_sidecar.config.credentials import CredentialsError, Secrets, trimmed
from datafile_sidecar.config.settings import SettingsError
from datafile_sidecar.core import (
    bus_message,
    bus_record,
    datafile,
    fleet_record,
    fleet_roster,
    fleet_status,
    fleet_table,
    http_headers,
    url_policy,
    webhook,
)
from datafile_sidecar.core import worker_message as worker
from datafile_sidecar.core.bus_record import BadRecordError, Head, Record
from datafile_sidecar.core.conditional import Validators
from datafile_sidecar.core.datafile import InvalidDatafileError
from datafile_sidecar.core.webhook import DatafileUpdated, Environment, MalformedWebhookError
from datafile_sidecar.core.worker_message import MalformedLineError
from datafile_sidecar.upstream.body import BodyError, BodyReader
from datafile_sidecar.volume.status_file import Status
from tests import bus_values
from tests.datafiles import minimal, realistic
from tests.fuzz.endpoint import talk

KEY, SECRET, NOW = "KEY1", b"test-secret-1", 1_700_000_000.0
EVENT = (
    b'{"project_id":1234,"timestamp":1700000000,"event":"project.datafile_updated","data":{"revision":43,'
    b'"origin_url":"https://optimizely.s3.amazonaws.com/json/1234.json",'
    b'"cdn_url":"https://cdn.optimizely.com/datafiles/KEY1.json","environment":"Production"}}'
)
JSON = (
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"9" * 5000,
    b'""',
    b"[]",
    b"{}",
    b"[" * 2000,
    b'"\\ud800"',
    b"NaN",
    b'{"a":',
    b",",
)


@dataclass(frozen=True, slots=True)
class Target:
    """A reader of bytes: good examples to begin with, and pieces that are likely to mean something to it."""

    check: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    pieces: tuple[bytes, ...]


def check_webhook(data: bytes) -> None:
    """A signed body is an event or malformed, and whose event it is can always be said."""
    with expected(MalformedWebhookError):
        event = webhook.parse(data)
        if isinstance(event, DatafileUpdated):
            assert event.revision is None or 0 <= event.revision < 2**63
            concerned = webhook.attribute(event, {KEY: Environment("1234", "production"), "KEY2": Environment()})
            assert {*concerned.announced, *concerned.hinted} <= {KEY, "KEY2"}
            for url in event.urls:
                check_url(url.encode("utf-8", "surrogatepass"))


def check_signature(data: bytes) -> None:
    """A header signs a body if it is the HMAC, in whatever case, and not otherwise."""
    right = b"sha1=" + hmac.new(SECRET, EVENT, "sha1").hexdigest().encode()
    assert webhook.verify(EVENT, data, (b"", b"old", SECRET)) is (data.strip().lower() == right)


def check_http(data: bytes) -> None:
    """On the wire, bytes get an answer of the contract or none, wake a loop only when signed, and are no error of ours."""
    seen = asyncio.run(talk(data, SECRET))
    assert seen.statuses <= {100, 200, 202, 400, 401, 404, 405, 408, 413, 417, 431}, seen
    assert seen.notified <= (b"sha1=" in data.lower())
    assert seen.errors == []


def check_datafile(data: bytes) -> None:
    """What is taken for a datafile is one for the SDK, too; all else is refused in words."""
    with expected(InvalidDatafileError):
        found = datafile.parse(data, KEY)
        assert found.body == data
        InstanceBuilder(KEY, {}).build(data, found.sha256, Path("fuzz"), prevalidated=True)


def check_client(data: bytes) -> None:
    """Whatever stands in the file, the client has an instance that decides or the one error for it."""
    with expected(UnusableError):
        loaded = InstanceBuilder(KEY, {}).build(data, "", Path("fuzz"), prevalidated=False)
        assert loaded.optimizely.config_manager.get_config() is not None


def check_bus(data: bytes) -> None:
    """What stands on the bus is the very datafile that it says it is, or it is refused."""
    for form in (CURRENT, EARLIER):
        with expected(BadRecordError):
            _check_record(bus_record.decode(data, KEY, form.decompress))
    with expected(BadRecordError):
        message = bus_message.decode(data)
        assert 0 <= message.spread_s <= 30
        assert data.startswith(message.line)
        body = applied(message.frame, minimal(42))
        _check_record(bus_record.record(message.head, message.line, body, KEY))
    with expected(BadRecordError):
        head = bus_record.decode_head(data)
        assert not bus_record.is_newer(head, head, NOW)
        assert bus_record.decode_head(head.encode()) == head
    if check := bus_record.decode_check(data):
        assert bus_record.decode_check(check.encode()) == check


def _check_record(record: Record) -> None:
    assert (record.head.sha256, record.head.revision) == (record.datafile.sha256, record.datafile.revision)
    assert datafile.parse(record.datafile.body, KEY) == record.datafile


def check_worker(data: bytes) -> None:
    """A worker's lines are understood or refused, they can be shown again, and no more than one line is kept."""
    with expected(MalformedLineError):
        said, rest = worker.parse_lines(data)
        assert len(rest) <= worker.MAX_LINE_BYTES
        assert [json.loads(json.dumps(one.process)) for one in said] == [list(one.process) for one in said]


def check_report(data: bytes) -> None:
    """What another sidecar says of itself can be shown in a table, and moves no cursor there."""
    with expected(fleet_status.InvalidStatusError):
        answers = [fleet_status.StatusResponse("10.0.0.1:8088", fleet_status.parse(data))]
        shown = [*fleet_table.table(answers, None, NOW), *fleet_status.lagging(answers, KEY, 43, workers_required=True)]
        assert all(line.isprintable() for line in shown)


def check_record(data: bytes) -> None:
    """What a pod leaves on the bus can be written again and shown; what is no record is a no."""
    answers = fleet_roster.responses(fleet_roster.Roster(KEY, {data[:20]: data}, NOW, 0.0, 0), fleet_roster.Excuses())
    lagging = fleet_status.lagging(answers, KEY, 43, workers_required=True)
    assert all(line.isprintable() for line in [*fleet_table.table(answers, None, NOW), *lagging])
    try:
        record = fleet_record.decode(data)
    except fleet_record.BadRecordError:
        assert lagging
    else:
        assert len(fleet_record.encode(record)) <= fleet_record.MAX_RECORD_BYTES


def check_status_file(data: bytes) -> None:
    """A status file that can be read says the same after it was written again."""
    if status := Status.decode(data):
        assert Status.decode(status.encode()) is not None


def check_prevalidated(data: bytes) -> None:
    """Whatever stands in a status file, the client believes it only of the bytes that it names."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / f"{KEY}.status.json").write_bytes(data)
        is_prevalidated, _ = DatafileReader(Path(directory), KEY).prevalidated("a" * 64)
        assert not is_prevalidated or json.loads(data)["sha256"] == "a" * 64


def check_secret(data: bytes) -> None:
    """A mounted secret is what stands in the file without white space or byte order mark around it, and never empty."""
    with tempfile.TemporaryDirectory() as directory, expected(CredentialsError) as messages:
        path = Path(directory) / "secret"
        path.write_bytes(data)
        assert Secrets(path, (), lambda: NOW).active == (trimmed(data),)
        assert trimmed(data)
    assert not messages or not trimmed(data) or len(data) > 1024


def check_settings(data: bytes) -> None:
    """An environment is settings or problems in words, one for each variable at most, and none shows a secret."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    environ = {name: value.replace("\0", "") for name, _, value in (line.partition("=") for line in lines) if name}
    environ["DATAFILE_WEBHOOK_SECRETS"] = "do-not-tell"
    settings.unknown(environ)
    with expected(SettingsError) as messages:
        assert "do-not-tell" not in repr(settings.load(environ))
    assert "do-not-tell" not in "".join(messages)


def check_url(data: bytes) -> None:
    """A URL from outside is permitted or not, and one that is leads to one of our hosts and ends in our key."""
    url = data.decode("utf-8", "surrogateescape")
    if url_policy.UrlPolicy(url_policy.TEMPLATES[0]).permits(url, KEY):
        assert url_policy.without_query(url).startswith("https://")
        assert url.partition("?")[0].endswith(f"/{KEY}.json")


def check_body(data: bytes) -> None:
    """An upstream body is whole or refused, and the pause that it asks for is a sane one."""
    coding, _, body = data.partition(b"\n")
    with expected(BodyError):
        read = BodyReader(coding.decode("latin-1"))
        read.feed(body)
        assert len(read.complete()) <= datafile.MAX_BYTES
    header = coding.decode("latin-1")
    pause_s = http_headers.retry_after_s(header, header, NOW)
    assert pause_s is None or pause_s >= 0
    clean = http_headers.clean_validator(header)
    assert clean is None or "\r" not in clean


@contextmanager
def expected(error: type[Exception]) -> Iterator[list[str]]:
    """This error is one of the answers that the law allows, and says something; its messages."""
    messages: list[str] = []
    try:
        yield messages
    except error as refusal:
        messages.append(str(refusal))
    assert all(messages)


def _bus_values(body: bytes, described: bytes) -> tuple[bytes, ...]:
    """The datafile in each form, and its change from another."""
    found = datafile.parse(described, KEY)
    validators = Validators(url="https://cdn.optimizely.com/datafiles/KEY1.json", etag='"a"')
    head = Head(generation=0, revision=43, sha256=found.sha256, fetched=NOW, validators=validators)
    values = (bus_values.value(head, body, form) for form in (CURRENT, EARLIER))
    return (*values, bus_values.message(head, body, minimal(42)))


def _request(body: bytes, *lines: bytes) -> bytes:
    signature = webhook.signature(body, SECRET).encode()
    head = (b"POST /webhooks/optimizely HTTP/1.1", b"Host: x", b"X-Hub-Signature: " + signature, *lines, b"", b"")
    return b"\r\n".join(head) + body


_WORKER = b'{"v":1,"id":"0a1b2c3d","sdk_key":"KEY1","pid":17,"host":"checkout-7d9f","revision":43}\n'
_STATUS = Status(sdk_key=KEY, revision=43, sha256="a" * 64, size=1, trigger="poll", generation=0, checked=NOW).encode()
_REPORT = (
    b'{"pod":"a","instance":"b","workers":{"state":"on","settled":true,"last_error":null},"keys":{"KEY1":{"revision":43,'
    b'"target_revision":43,"trigger":"poll","checked":"2026-01-31T12:00:00.000Z","last_error":null,"workers":'
    b'[{"id":"0a1b2c3d","pid":17,"host":"a","revision":43}]}}}'
)
_URL = b"https://cdn.optimizely.com/datafiles/KEY1.json"
_URL_PIECES = tuple(b"// @ : # ? \\ %2f .. KEY1 .json http [::1] \x00 \xff evil.test".split(b" "))
_HTTP_PIECES = (
    *(b"\r\n", b"\r\n\r\n", b": ", b"\x00", b"\xe9", b"HTTP/1.0", b"0\r\n\r\n", b"ffffffffffffffff\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Content-Length: 1\r\n", b"Expect: 100-continue\r\n"),
    *(b"Upgrade: websocket\r\n", b"Connection: upgrade\r\n", b"X-Datafile-Relayed: 1\r\n"),
)
_ENVIRONMENT = (
    b"DATAFILE_SDK_KEYS=KEY1\nDATAFILE_PEERS=a:1,[::1]:2\nDATAFILE_BUS_URL=rediss://u:p@h:1/0\n"
    b"DATAFILE_WEBHOOK_LISTEN=[::]:8089"
)
_SETTINGS = tuple(f"\n{one.name}=".encode() for one in settings.VARIABLES)
_SETTINGS_PIECES = (*_SETTINGS, *b"nan -1 1e999 [ :// @ , {sdk_key}".split())
_BODIES = (b"gzip\n", b"Wed, 21 Oct 2099 07:28:00 GMT\n", b"deflate, gzip\n" + bytes(100))

_RECORD = (
    b'{"at":1700000000.0,"revision":43,"sha256":"9e5f","workers":[{"id":"0a1b2c3d","pid":17,"host":"app","count":2,'
    b'"revision":43}],"unreported":[{"id":"00000001","pid":7}],"unlisted":1,"doubt":"?","last_error":"No space"}'
)
_VALUES = (*_bus_values(minimal(43), minimal(43)), *_bus_values(realistic(1, 43), minimal(43)))
_SIGNATURE = webhook.signature(EVENT, SECRET).encode()
_SIGNATURES = (_SIGNATURE, b" " + _SIGNATURE.upper(), webhook.signature(EVENT, b"").encode())

TARGETS = {
    "webhook": Target(check_webhook, (EVENT, b'{"event":"x","data":[]}'), (*JSON, b'"revision":', b'"data":')),
    "signature": Target(check_signature, _SIGNATURES, (b"sha1=", b" ", b"\xe9", b"SHA1=")),
    "http": Target(
        check_http,
        (_request(EVENT, b"Content-Length: %d" % len(EVENT)), _request(EVENT, b"Transfer-Encoding: chunked")),
        _HTTP_PIECES,
    ),
    "datafile": Target(check_datafile, (minimal(43), realistic(6, 43)), (*JSON, b'"key":', b'"self":', b'"conditions":"[]"')),
    "client": Target(check_client, (minimal(43), b"\xef\xbb\xbf" + minimal(43)), (*JSON, b'"revision":')),
    "bus": Target(check_bus, _VALUES, (*JSON, b"\n", b'"generation":', b'"left":')),
    "worker": Target(check_worker, (_WORKER, _WORKER * 3), (*JSON, b"\n", b'"revision":null')),
    "report": Target(check_report, (_REPORT,), (*JSON, b"\\u001b[2J", b"\\u202e", b'"workers":')),
    "record": Target(check_record, (_RECORD,), (*JSON, b"\\u001b[2J", b'"at":1e9', b'"workers":', b'"doubt":')),
    "status file": Target(check_status_file, (_STATUS,), (*JSON, b'"2026-02-31T25:00:00Z"', b'"9999-12-31T23:59:59.999Z"')),
    "vouched": Target(check_prevalidated, (_STATUS,), (*JSON, b'"schema":1', b'"checked":')),
    "secret": Target(check_secret, (b"test-secret-1\n",), (b"\n", b" ", b"\x00", b"\xef\xbb\xbf", b"\r")),
    "settings": Target(check_settings, (_ENVIRONMENT, b"".join(_SETTINGS)), _SETTINGS_PIECES),
    "url": Target(check_url, (_URL,), _URL_PIECES),
    "body": Target(check_body, _BODIES, (b"gzip", b"br", b",", b"1e309")),
}  # fmt: skip
