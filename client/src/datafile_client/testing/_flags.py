"""The flags of one test, and the watcher that decides by them."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from optimizely.event.user_event import UserEvent

from datafile_client._options import OptimizelyOptions
from datafile_client._watcher import OptimizelyWatcher
from datafile_client.testing._datafile import make_datafile
from datafile_client.testing._memory import MemorySource


class Flags:
    """Flags for one test, set in memory: no file, no thread, no connection, no sleep.

    The pytest plugin makes one for each test that asks for the fixture `flags`. Elsewhere, `with Flags() as flags:` does the same.

    Args:
        optimizely_options: keyword arguments for the SDK's constructor, as for `OptimizelyWatcher`. Without an `event_processor`,
            events go to `events`, and nowhere else.

    Attributes:
        events: what the SDK would have sent: impressions and tracked events, in their order.
    """

    def __init__(self, *, optimizely_options: OptimizelyOptions | None = None) -> None:
        self.events: list[UserEvent] = []
        self._options: OptimizelyOptions = {"event_processor": _Recorder(self.events)}
        self._options |= optimizely_options or {}
        self._rules: dict[str, list[dict[str, Any]]] = {}
        self._event_keys: tuple[str, ...] = ()
        self._revision = 0
        self._source = MemorySource()
        self._watcher: OptimizelyWatcher | None = None
        self._publish(self._rules)

    @property
    def watcher(self) -> OptimizelyWatcher:
        """The watcher that decides by these flags. It is started; a change is in use as soon as `set` returns."""
        if self._watcher is None:
            self._watcher = OptimizelyWatcher(sdk_key="test", directory=".", optimizely_options=self._options)
            self._watcher._source = self._source
            self._watcher.start(timeout=0)
        return self._watcher

    def set(
        self,
        key: str,
        on: bool = True,
        *,
        variables: Mapping[str, Any] | None = None,
        variation: str | None = None,
        percentage: float = 100,
        audience: Mapping[str, Any] | Sequence[Any] | None = None,
        user: str | None = None,
    ) -> None:
        """Set a flag for everybody, for an audience or for one user. A flag that was not set is off.

        A call replaces what an earlier one has set for the same flag and the same people. Calls with a percentage add up: each
        sets one variation of a split.

        Args:
            key: the flag's key.
            on: whether it is on.
            variables: its variables' values. Their types follow from the values, as in `make_datafile`.
            variation: the variation's key; None for "on" or "off".
            percentage: which share of the people gets it. The SDK decides by the user's id, always alike.
            audience: for users with these attributes only: `{"country": "de"}`, or a list of Optimizely's conditions.
            user: for the user with this id only, before all other rules.

        Raises:
            ValueError: the flag can't be made so. The message says why, and the flags stay as they were.
        """
        rule = {"on": on, "variables": variables or {}, "variation": variation, "percentage": percentage}
        rule |= {"audience": audience, "user": user}
        kept = [one for one in self._rules.get(key, []) if not _replaces(rule, one)]
        self._publish(self._rules | {key: [*kept, rule]})

    def remove(self, key: str) -> None:
        """Take a flag out of the datafile, with everything that was set for it.

        Args:
            key: the flag's key.
        """
        self._publish({one: rules for one, rules in self._rules.items() if one != key})

    def accept_events(self, *keys: str) -> None:
        """Let `track` accept events. The SDK drops those that the datafile does not name.

        Args:
            keys: their keys.
        """
        self._event_keys += keys
        self._publish(self._rules)

    def close(self) -> None:
        """Stop the watcher."""
        if self._watcher is not None:
            self._watcher.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _publish(self, rules: dict[str, list[dict[str, Any]]]) -> None:
        datafile = make_datafile(rules, revision=self._revision + 1, events=self._event_keys)
        self._rules, self._revision = rules, self._revision + 1
        if self._watcher is not None:
            self._watcher.status()  # a child of the test takes part from its first use on
        self._source.publish(datafile)


class _Recorder:
    """An event processor that keeps what it gets."""

    def __init__(self, events: list[UserEvent]) -> None:
        self._events = events

    def process(self, user_event: UserEvent) -> None:
        """Keep one event."""
        self._events.append(user_event)


def _replaces(new: dict[str, Any], old: dict[str, Any]) -> bool:
    if (new["user"], new["audience"]) != (old["user"], old["audience"]):
        return False
    is_split = new["percentage"] < 100 and old["percentage"] < 100
    return not is_split or _name(new) == _name(old)


def _name(rule: dict[str, Any]) -> str:
    return rule["variation"] or ("on" if rule["on"] else "off")
