"""What OpenFeature hears of a watcher, in this process and in forked ones, from the start to the end."""

import contextlib
import datetime
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import ErrorCode, ProviderNotReadyError
from openfeature.provider import ProviderStatus
from openfeature.provider.no_op_provider import NoOpProvider

from datafile_client import DatafileUnavailableError
from datafile_client.openfeature import OptimizelyProvider
from datafile_client.testing import Flags
from tests.client.conftest import MakeWatcher
from tests.client.forking import in_child, reap
from tests.client.helpers import Receiver, patient_options, publish, wait_until, write_status

USER = EvaluationContext("u1")


@pytest.fixture(autouse=True)
def _no_provider_stays() -> Iterator[None]:
    yield
    api.shutdown()


class Heard:
    """What handlers have heard, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, EventDetails]] = []
        for event in ProviderEvent:
            api.add_handler(event, self._handler(event.name.removeprefix("PROVIDER_")))

    @property
    def names(self) -> list[str]:
        """The events' names."""
        return [name for name, _ in self.events]

    @property
    def last(self) -> str:
        """The last event's name."""
        return self.names[-1] if self.events else ""

    def _handler(self, name: str) -> Callable[[EventDetails], None]:
        return lambda details: self.events.append((name, details))


def status() -> ProviderStatus:
    """Return what OpenFeature thinks of the provider."""
    return api.get_client().get_provider_status()


def is_on(flag: str = "checkout") -> bool:
    """Ask OpenFeature."""
    return api.get_client().get_boolean_value(flag, False, USER)


def test_a_change_is_heard_with_the_flags_that_changed(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user drops what is cached for exactly the flags that changed, and READY comes once."""
    publish(directory, 1, same=True, gone=True)
    heard = Heard()
    wait_until(lambda: heard.names == ["READY"])  # of OpenFeature's own default
    api.set_provider_and_wait(OptimizelyProvider(make_watcher()))
    assert status() is ProviderStatus.READY
    publish(directory, 2, same=True, new=True)
    wait_until(lambda: "CONFIGURATION_CHANGED" in heard.names)
    assert heard.names == ["READY", "READY", "CONFIGURATION_CHANGED"]
    details = heard.events[-1][1]
    assert (details.flags_changed, details.metadata) == (["checkout", "gone", "new"], {"revision": 2})
    assert (is_on(), is_on("new")) == (False, True)


def test_an_outage_at_start_is_an_error_that_passes(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's app that starts without a datafile gets defaults and an error, and decides as soon as there is one."""
    heard = Heard()
    with pytest.raises(ProviderNotReadyError, match="No datafile for SDK key 'KEY1'"):
        api.set_provider_and_wait(OptimizelyProvider(make_watcher(start_timeout_s=0.1)))
    assert status() is ProviderStatus.ERROR
    details = api.get_client().get_boolean_details("checkout", True, USER)
    assert (details.value, details.error_code) == (True, ErrorCode.PROVIDER_NOT_READY)
    wait_until(lambda: "ERROR" in heard.names)
    message = heard.events[-1][1].message
    assert heard.events[-1][1].error_code is ErrorCode.PROVIDER_NOT_READY
    assert message is not None
    assert "check that the sidecar is running" in message
    publish(directory, 1)
    wait_until(lambda: status() is ProviderStatus.READY)
    assert is_on()
    wait_until(lambda: heard.last == "READY")
    assert "CONFIGURATION_CHANGED" not in heard.names


def test_a_start_in_the_background_is_ready_in_the_end(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who does not wait for the provider gets READY when the datafile comes."""
    heard = Heard()
    api.set_provider(OptimizelyProvider(make_watcher(start_timeout_s=20)))
    assert status() is ProviderStatus.NOT_READY
    publish(directory, 1)
    wait_until(lambda: status() is ProviderStatus.READY)
    wait_until(lambda: heard.last == "READY")
    publish(directory, 2)
    wait_until(lambda: heard.last == "CONFIGURATION_CHANGED")
    assert "ERROR" not in heard.names


def test_a_datafile_that_nobody_confirms_is_stale_until_somebody_does(
    directory: Path, make_watcher: MakeWatcher
) -> None:
    """A user is told when flags may be out of date and when they no longer are, though no datafile changes; decisions go on."""
    now = datetime.datetime.now(datetime.UTC)
    datafile = publish(directory, 1)
    write_status(directory, "KEY1", datafile, checked=now.isoformat())
    heard = Heard()
    api.set_provider_and_wait(OptimizelyProvider(make_watcher(stale_after_s=2)))
    wait_until(lambda: status() is ProviderStatus.STALE)
    assert (datetime.datetime.now(datetime.UTC) - now).total_seconds() >= 2
    assert is_on()
    write_status(directory, "KEY1", datafile, checked=datetime.datetime.now(datetime.UTC).isoformat())
    wait_until(lambda: status() is ProviderStatus.READY)
    wait_until(lambda: heard.names[-3:] == ["READY", "STALE", "READY"])
    assert "CONFIGURATION_CHANGED" not in heard.names


def test_a_refused_datafile_changes_nothing_and_is_named_when_stale(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user keeps deciding by the last good datafile, and reads why the newest is not in use."""
    publish(directory, 1)
    heard = Heard()
    api.set_provider_and_wait(OptimizelyProvider(make_watcher(stale_after_s=1)))
    (directory / "KEY1.json").write_text("{}")
    wait_until(lambda: heard.last == "STALE")
    message = heard.events[-1][1].message
    assert message is not None
    assert "not valid by the SDK's schema" in message
    assert is_on()


def test_shutdown_sends_what_is_queued_and_ends_the_watcher(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's last events arrive, no thread stays, and the provider can be set again."""
    publish(directory, 1)
    with Receiver() as receiver:
        options = patient_options(receiver.port)
        options["event_processor_options"] = {"timeout_interval": 50, "batch_size": 100, "flush_interval": 1000}
        watcher = make_watcher(optimizely_options=options)
        provider = OptimizelyProvider(watcher)
        api.set_provider_and_wait(provider)
        api.get_client().track("bought", USER)
        api.shutdown()
        assert receiver.users == {"u1": 1}
        assert not watcher.ready
        wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("datafile")])
        api.set_provider_and_wait(provider)
        heard = Heard()
        publish(directory, 2)
        wait_until(lambda: heard.last == "CONFIGURATION_CHANGED")
        assert not is_on()


def test_a_watcher_is_stopped_with_its_last_provider(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who replaces a provider by another of the same watcher goes on deciding."""
    publish(directory, 1)
    watcher = make_watcher()
    first, second = OptimizelyProvider(watcher), OptimizelyProvider(watcher)
    api.set_provider_and_wait(first)
    api.set_provider_and_wait(second, domain="other")
    first.shutdown()
    assert watcher.ready
    publish(directory, 2)
    wait_until(lambda: not api.get_client("other").get_boolean_value("checkout", True, USER))
    api.set_provider(NoOpProvider(), domain="other")
    wait_until(lambda: not watcher.ready)


def test_a_shutdown_ends_a_start_that_waits(make_watcher: MakeWatcher) -> None:
    """A user's app that is stopped during an outage ends at once, and its watcher is free for another provider."""
    watcher = make_watcher(start_timeout_s=60)
    provider = OptimizelyProvider(watcher)
    api.set_provider(provider)
    wait_until(lambda: any(thread.name.startswith("datafile /") for thread in threading.enumerate()))
    api.shutdown()
    assert not watcher.ready
    wait_until(lambda: not [thread for thread in threading.enumerate() if "_run_initialize" in thread.name])
    assert not watcher._listeners


def test_a_handler_that_fails_stops_nothing(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's faulty handler does not keep others from hearing."""
    publish(directory, 1)

    def fail(_: EventDetails) -> None:
        raise RuntimeError

    api.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, fail)
    heard = Heard()
    api.set_provider_and_wait(OptimizelyProvider(make_watcher()))
    for revision in (2, 3):
        publish(directory, revision)
        wait_until(lambda revision=revision: heard.events[-1][1].metadata.get("revision") == revision)  # type: ignore[misc]  # a default


def test_a_child_decides_and_hears_by_itself(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user of gunicorn's preload sets the provider once: each worker decides, hears, and may add handlers of its own.

    The parent's handlers have run before the fork, so the pool of threads that OpenFeature keeps has idle ones, which no child has.
    """
    publish(directory, 1)
    heard = Heard()
    api.set_provider_and_wait(OptimizelyProvider(make_watcher()))
    wait_until(lambda: heard.names == ["READY", "READY"])

    def work() -> None:
        assert is_on()
        own = Heard()
        wait_until(lambda: own.names == ["READY"])
        publish(directory, 2)
        wait_until(lambda: heard.names == ["READY", "READY", "CONFIGURATION_CHANGED"])
        wait_until(lambda: own.names == ["READY", "CONFIGURATION_CHANGED"])
        assert not is_on()
        api.shutdown()
        wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("datafile")])

    assert reap([in_child(work)]) == [0]
    wait_until(lambda: heard.names == ["READY", "READY", "CONFIGURATION_CHANGED"])


@contextlib.contextmanager
def held(*locks: Any) -> Iterator[None]:
    """Hold locks in another thread, so that a fork copies them while they are held."""
    is_held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            is_held.set()
            assert may_end.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert is_held.wait(20)
    try:
        yield
    finally:
        may_end.set()
        thread.join()


def test_a_fork_in_the_middle_of_an_event_hangs_no_child(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's worker that is forked while an event is on its way may add handlers, and they hear the next events."""
    from openfeature import _event_support
    from openfeature.provider._registry import provider_registry

    publish(directory, 1)
    api.set_provider_and_wait(OptimizelyProvider(make_watcher()))

    def work() -> None:
        heard = Heard()
        assert is_on()
        for revision in (2, 3):
            publish(directory, revision)
            wait_until(lambda: heard.last == "CONFIGURATION_CHANGED", 10)
            heard.events.clear()

    with held(_event_support._global_lock, _event_support._client_lock, provider_registry._lock):
        child = in_child(work)
        code = reap([child], timeout=25)
    assert code == [0]


def test_a_fork_during_an_outage_leaves_no_child_without_decisions(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user's workers that are forked while the provider waits for its first datafile decide when there is one."""
    api.set_provider(OptimizelyProvider(make_watcher(start_timeout_s=60)))
    wait_until(lambda: any(thread.name.startswith("datafile /") for thread in threading.enumerate()))

    def work() -> None:
        assert status() is ProviderStatus.ERROR
        details = api.get_client().get_boolean_details("checkout", False, USER)
        assert details.error_code is ErrorCode.PROVIDER_NOT_READY
        publish(directory, 1)
        wait_until(is_on)
        wait_until(lambda: status() is ProviderStatus.READY)
        heard = Heard()
        publish(directory, 2)
        wait_until(lambda: heard.last == "CONFIGURATION_CHANGED")

    assert reap([in_child(work)]) == [0]


def test_the_import_makes_no_thread_and_no_lock_that_is_held() -> None:
    """A user may import everything before a fork."""
    import subprocess
    import sys

    code = "import datafile_client.openfeature, threading; assert threading.active_count() == 1"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)


def test_the_client_itself_needs_no_openfeature() -> None:
    """A user without the extra has a client that works."""
    import subprocess
    import sys

    code = "import sys; sys.modules['openfeature'] = None; import datafile_client, datafile_client.testing"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)


def test_events_of_a_test_come_in_place() -> None:
    """A user of the test kit tests a handler: the change is announced when `set` returns."""
    with Flags() as flags:
        api.set_provider_and_wait(OptimizelyProvider(flags.watcher))
        heard = Heard()
        flags.set("checkout")
        wait_until(lambda: heard.names == ["READY", "CONFIGURATION_CHANGED"])
        assert heard.events[-1][1].flags_changed == ["checkout"]
        assert is_on()


def test_a_watcher_that_the_app_has_started_is_taken_as_it_is(directory: Path, make_watcher: MakeWatcher) -> None:
    """A user who starts the watcher first sees the provider ready at once, without a change."""
    with pytest.raises(DatafileUnavailableError):
        (watcher := make_watcher()).start(timeout=0)
    publish(directory, 1)
    assert watcher.wait_for_revision(1, 20)
    heard = Heard()
    api.set_provider_and_wait(OptimizelyProvider(watcher))
    assert is_on()
    publish(directory, 2)
    wait_until(lambda: heard.last == "CONFIGURATION_CHANGED")
    assert heard.names.count("CONFIGURATION_CHANGED") == 1
