"""Builds the loop of one SDK key from the settings, for the daemon and for `fetch`."""

import random
from collections.abc import Callable

from datafile_sidecar.bus import Bus
from datafile_sidecar.config.settings import Settings
from datafile_sidecar.core.gate import AdmissionPolicy
from datafile_sidecar.core.schedule import Pace
from datafile_sidecar.core.state import RollbackPolicy
from datafile_sidecar.network.turns import Capacity
from datafile_sidecar.observe.telemetry import Telemetry
from datafile_sidecar.sync.bootstrap import Bootstrap
from datafile_sidecar.sync.comparisons import Replacement
from datafile_sidecar.sync.fetcher import Fetcher
from datafile_sidecar.sync.store import KeyStore
from datafile_sidecar.sync.syncer import KeySyncer
from datafile_sidecar.upstream import Upstream


def key_syncer(
    store: KeyStore,
    source: Callable[[], tuple[Upstream, str | None]],
    settings: Settings,
    pace: Pace,
    capacity: Capacity,
    bootstrap: Bootstrap,
    telemetry: Telemetry,
    *,
    bus: Bus | None = None,
    ask_peers: Callable[[str], bool] = lambda _: False,
    compare: Callable[[Replacement], None] = lambda _: None,
) -> KeySyncer:
    """Return the loop, not running yet.

    Args:
        store: The key's file on the volume.
        source: Gives the upstream to ask now, and the access token.
        settings: Where the policy comes from: what may be published.
        pace: When to poll.
        capacity: What all keys share.
        bootstrap: The files to begin with in an outage.
        telemetry: Where events go.
        bus: None takes part in no bus.
        ask_peers: See `KeySyncer`.
        compare: See `KeySyncer`.
    """
    jitter, interval_s = random.Random(), pace.poll_interval_s
    return KeySyncer(
        store=store,
        fetcher=Fetcher(store.sdk_key, source, interval_s, jitter, telemetry, capacity),
        bus=bus,
        bootstrap=bootstrap,
        pace=pace,
        policy=AdmissionPolicy(RollbackPolicy.of(settings.rollback_after_s, interval_s)),
        random=jitter,
        telemetry=telemetry,
        ask_peers=ask_peers,
        compare=compare,
    )
