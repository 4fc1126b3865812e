"""From one webhook to the loops of the keys that it concerns."""

from collections.abc import Mapping

from datafile_sidecar.core import webhook
from datafile_sidecar.core.state import Trigger
from datafile_sidecar.core.webhook import DatafileUpdated, Environment
from datafile_sidecar.sync.syncer import KeySyncer


def notify(syncers: Mapping[str, KeySyncer], event: DatafileUpdated, trigger: Trigger) -> tuple[str, ...] | None:
    """Tell every key that an event concerns; return those for which it changes something, None where it concerns no key."""
    stores = {key: syncer.store for key, syncer in syncers.items()}
    environments = {key: Environment(one.project_id, one.environment_key) for key, one in stores.items()}
    concerned = webhook.attribute(event, environments)
    if not (concerned.announced or concerned.hinted):
        return None
    if event.is_withdrawal:
        return tuple(key for key in concerned.announced if event.revision and syncers[key].withdraw(event.revision))
    for key in concerned.hinted:
        syncers[key].hint(trigger)
    awake = [
        key
        for key in concerned.announced
        if event.revision is not None and syncers[key].announce(event.revision, event.urls, trigger)
    ]
    return (*awake, *concerned.hinted)
