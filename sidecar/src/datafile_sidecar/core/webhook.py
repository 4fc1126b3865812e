"""Optimizely's webhooks: verify the signature, parse the event, and find the SDK keys that it concerns.

Rules: nothing is parsed before it is verified; bytes are compared with bytes, in constant time; an empty secret verifies
nothing. Source: Optimizely's page "Configure webhooks" (`X-Hub-Signature: sha1=<HMAC-SHA1 of the raw body>`).
"""

import contextlib
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

PATH = "/webhooks/optimizely"
SIGNATURE_HEADER = "X-Hub-Signature"
RELAYED_HEADER = "X-Datafile-Relayed"
"""Marks a webhook that another sidecar has relayed, so that it is not relayed again. It is not signed and grants nothing."""
INSTANCE_HEADER = "X-Datafile-Instance"
"""Names the sidecar that took a relayed webhook, so that one with several addresses is counted once."""

DATAFILE_UPDATED = "project.datafile_updated"
REVISION_WITHDRAWN = "datafile-sidecar.revision_withdrawn"
"""An event of our own, with the body of `DATAFILE_UPDATED`: nobody will serve this revision, so wait for it no longer."""
_MAX_REVISION = 2**63 - 1
_MAX_DELAY_S = 86400.0
_CLOCK_ERROR_S = 60.0

CONCERNS_NO_KEY = "it concerns none of the SDK keys of this sidecar"
"""The answer to an event of another key, environment or project."""


class MalformedWebhookError(ValueError):
    """A signed body is not an event of Optimizely's. The message says what is wrong and never quotes the body."""


@dataclass(frozen=True, slots=True)
class DatafileUpdated:
    """The event `project.datafile_updated`, or our own that takes such an event back.

    `revision` is None when the event has none; `urls` are its non-empty URLs as they were sent, the origin's first. `timestamp` is
    when the change was saved, in Unix seconds of Optimizely's clock; None where the event does not say it.
    """

    project_id: str | None
    revision: int | None
    environment: str | None
    urls: tuple[str, ...]
    timestamp: float | None = None
    is_withdrawal: bool = False

    def delay_s(self, now: float) -> float | None:
        """Return how many seconds after the change was saved it is now (Unix seconds), None where that can't be believed.

        The timestamp is of whole seconds and of another clock: a little later than now counts as no delay.
        """
        if self.timestamp is None or not -_CLOCK_ERROR_S <= now - self.timestamp <= _MAX_DELAY_S:
            return None
        return max(0.0, now - self.timestamp)


@dataclass(frozen=True, slots=True)
class OtherEvent:
    """Any other event of the same webhook: it is acknowledged and ignored."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What the datafile of an SDK key says of its origin: the project's id and the environment's key; None while unknown."""

    project_id: str | None = None
    key: str | None = None

    def may_be_in_project_of(self, event: DatafileUpdated) -> bool:
        """Tell whether the project is the event's, as far as both are known."""
        return None in (self.project_id, event.project_id) or self.project_id == event.project_id

    def is_named_by(self, event: DatafileUpdated) -> bool:
        """Tell whether the event has this project and this environment. Optimizely writes `Production` for `production`."""
        if None in (self.project_id, self.key, event.environment):
            return False
        return self.project_id == event.project_id and str(self.key).casefold() == str(event.environment).casefold()


@dataclass(frozen=True, slots=True)
class Attribution:
    """The SDK keys that an event concerns: `announced` where its revision is theirs, or `hinted` where it may mean them."""

    announced: tuple[str, ...] = ()
    hinted: tuple[str, ...] = ()


class _Envelope(msgspec.Struct):
    event: str
    project_id: msgspec.Raw = msgspec.Raw(b"null")
    timestamp: msgspec.Raw = msgspec.Raw(b"null")
    data: msgspec.Raw = msgspec.Raw(b"null")


_Name = Annotated[str, msgspec.Meta(max_length=1024)]
_Url = Annotated[str, msgspec.Meta(max_length=4096)]
_MAX_ID = 2**63 - 1
_NUMBER = msgspec.json.Decoder(int | float)


class _Data(msgspec.Struct):
    revision: int | str | None = None
    origin_url: _Url | None = None
    cdn_url: _Url | None = None
    environment: _Name | None = None


def signature(body: bytes, secret: bytes) -> str:
    """Return the value of `X-Hub-Signature` for a raw body: `sha1=` and 40 hexadecimal digits."""
    return f"sha1={hmac.new(secret, body, hashlib.sha1).hexdigest()}"


def verify(body: bytes, header: bytes | None, secrets: Iterable[bytes]) -> bool:
    """Return whether the raw header is the signature of the raw body by one of the secrets.

    All secrets are tried in any case, so that the time taken does not reveal which one matches.
    """
    if header is None:
        return False
    sent = header.strip().lower()
    matches = [hmac.compare_digest(signature(body, secret).encode(), sent) for secret in secrets if secret]
    return any(matches)


def parse(body: bytes) -> DatafileUpdated | OtherEvent:
    """Parse the event in a verified body.

    Raises:
        MalformedWebhookError: The body is not an event of Optimizely's.
    """
    envelope: _Envelope = _decode(body, _Envelope, "the body")
    if envelope.event not in {DATAFILE_UPDATED, REVISION_WITHDRAWN}:
        return OtherEvent()
    is_withdrawal = envelope.event == REVISION_WITHDRAWN
    project_id: int | str | None = _decode(bytes(envelope.project_id), int | _Name | None, "project_id")
    if isinstance(project_id, int) and abs(project_id) > _MAX_ID:
        raise MalformedWebhookError("project_id is out of range")
    data: _Data = _decode(bytes(envelope.data), _Data, "data")
    revision = _revision(data.revision)
    if is_withdrawal and revision is None:
        raise MalformedWebhookError("it withdraws no revision: data.revision is missing")
    return DatafileUpdated(
        project_id=None if project_id is None else str(project_id),
        revision=revision,
        environment=data.environment,
        urls=tuple(url for url in (data.origin_url, data.cdn_url) if url),
        is_withdrawal=is_withdrawal,
        timestamp=_timestamp(envelope.timestamp),
    )


def attribute(event: DatafileUpdated, environments: Mapping[str, Environment]) -> Attribution:
    """Find the SDK keys that an event concerns.

    An SDK key of ours at the end of a URL decides. In older projects the URLs are empty or end in the project's id: then project
    and environment together decide. Where they name none of our keys, the event may mean any key of its project. An event of
    another project concerns none of ours.

    Args:
        event: The parsed event.
        environments: What is known of each of our SDK keys.
    """
    same_project = tuple(key for key, one in environments.items() if one.may_be_in_project_of(event))
    in_urls = {_file_stem(url) for url in event.urls}
    if ours := tuple(key for key in same_project if key in in_urls):
        return _attribution(event, ours)
    if in_urls - {"", event.project_id, *(one.project_id for one in environments.values())}:
        return Attribution()
    if named := tuple(key for key in same_project if environments[key].is_named_by(event)):
        return _attribution(event, named, tuple(key for key in same_project if environments[key].key is None))
    return Attribution(hinted=same_project)


def _attribution(event: DatafileUpdated, named: tuple[str, ...], possible: tuple[str, ...] = ()) -> Attribution:
    """Announce the revision to the keys that the event names; without one, it is a hint to them."""
    if event.revision is None:
        return Attribution(hinted=(*named, *possible))
    return Attribution(announced=named, hinted=possible)


def _file_stem(url: str) -> str:
    try:
        path = urlsplit(url).path
    except ValueError:
        return ""
    return path.rpartition("/")[2].removesuffix(".json")


def _timestamp(raw: msgspec.Raw) -> float | None:
    """Return a number of seconds. Anything else is no reason to reject a webhook."""
    with contextlib.suppress(msgspec.MsgspecError, OverflowError):
        return float(_NUMBER.decode(raw))
    return None


def _revision(value: int | str | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and not (value.isascii() and value.isdecimal() and len(value) < 20):
        raise MalformedWebhookError("data.revision is not a decimal number")
    revision = int(value)
    if not 0 <= revision <= _MAX_REVISION:
        raise MalformedWebhookError("data.revision is out of range")
    return revision


def _decode(body: bytes, kind: Any, where: str) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise MalformedWebhookError(f"{where} is not what Optimizely sends: {problem}") from None
