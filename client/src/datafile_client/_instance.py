"""Bytes → Optimizely, with the shared parts. Knows no files.

`Optimizely(datafile)` once per datafile would leak every instance (a registry of the process holds them), check the schema of
what has been checked, and build an OptimizelyConfig that hardly anybody asks for. The SDK takes a config manager of one's
own, and that is the way around all three.
"""

import contextlib
import datetime
import gc
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast, final

from optimizely.config_manager import BaseConfigManager
from optimizely.helpers import validator
from optimizely.helpers.enums import NotificationTypes
from optimizely.helpers.sdk_settings import OptimizelySdkSettings
from optimizely.optimizely import Optimizely
from optimizely.optimizely_config import OptimizelyConfig, OptimizelyConfigService
from optimizely.project_config import ProjectConfig

from datafile_client._parts import Parts
from datafile_client._process import lock_per_process
from datafile_client.errors import InvalidDatafileError

_PASSED_ON = ("default_decide_options", "event_dispatcher", "user_profile_service")
_BOM = b"\xef\xbb\xbf"
# In no registry: there, an app's logging.config would enable it again.
_silent = logging.Logger("datafile_client.silent", logging.CRITICAL + 1)


@final
@dataclass(frozen=True, slots=True)
class Loaded:
    """One built instance and where it came from."""

    optimizely: Optimizely
    revision: int
    sha256: str
    source: str
    loaded_at: datetime.datetime


class FixedConfigManager(BaseConfigManager):
    """Serves one ProjectConfig for ever, and derives the OptimizelyConfig when it is first asked for."""

    def __init__(self, config: ProjectConfig, parts: Parts) -> None:
        super().__init__(parts.logger, parts.error_handler, parts.notification_center)
        self._config = config

    def get_config(self) -> ProjectConfig:
        """Return the config."""
        return self._config

    def get_sdk_key(self) -> str | None:
        """Return the SDK key that the datafile names, if it names one."""
        return self._config.sdk_key

    @cached_property
    def optimizely_config(self) -> OptimizelyConfig | None:  # type: ignore[override]
        """The SDK's derived view of the datafile: up to half of a rebuild's cost, and rarely used."""
        return OptimizelyConfigService(self._config, self.logger).get_config()


class Builder:
    """Builds instances for one SDK key that share their parts."""

    def __init__(self, sdk_key: str, options: Mapping[str, Any]) -> None:
        self._sdk_key = sdk_key
        self.parts = Parts(options)

    def build(self, data: bytes, sha256: str, path: Path, *, vouched: bool, source: str = "file") -> Loaded:
        """Build an instance, and tell the shared ODP parts that its datafile counts from now on; a failure changes nothing.

        Raises:
            InvalidDatafileError: the SDK could not decide by these bytes, or they are another SDK key's.
        """
        with collection_paused():
            config = self._parse(data.removeprefix(_BOM), path, vouched=vouched)
            optimizely = self._instance(config)
        self.parts.odp.update_odp_config(config.public_key_for_odp, config.host_for_odp, config.all_segments)
        return Loaded(optimizely, int(config.revision), sha256, source, datetime.datetime.now(datetime.UTC))

    def announce(self) -> None:
        """Tell the SDK's own listeners, after the swap: inside the constructor they would still see the old instance."""
        self.parts.notification_center.send_notifications(NotificationTypes.OPTIMIZELY_CONFIG_UPDATE)

    def _parse(self, data: bytes, path: Path, *, vouched: bool) -> ProjectConfig:
        if not vouched and not self.parts.options.get("skip_json_validation") and not validator.is_datafile_valid(data):
            raise InvalidDatafileError(path, "not JSON, or not what the SDK's schema of a datafile asks for")
        try:
            config = ProjectConfig(data, self.parts.logger, self.parts.error_handler)
        except Exception as error:
            # The SDK stumbles in many ways over what its schema forgets, such as a flag's rollout that is not there.
            raise InvalidDatafileError(path, f"the SDK cannot use it ({type(error).__name__}: {error})") from error
        if config.sdk_key not in (None, "", self._sdk_key):
            raise InvalidDatafileError(path, f"it is the datafile of another SDK key, {config.sdk_key!r}")
        revision: object = config.revision
        if not (isinstance(revision, str) and re.fullmatch("[0-9]{1,18}", revision)):
            raise InvalidDatafileError(path, f"its revision is no decimal number in quotes: {revision!r}")
        return config

    def _instance(self, config: ProjectConfig) -> Optimizely:
        parts = self.parts
        instance = Optimizely(
            logger=_silent,  # it would log that ODP is disabled
            error_handler=parts.error_handler,
            config_manager=FixedConfigManager(config, parts),
            notification_center=parts.notification_center,
            event_processor=parts.events,
            settings=OptimizelySdkSettings(odp_disabled=True),
            cmab_service=parts.cmab,
            **{name: parts.options.get(name) for name in _PASSED_ON},
        )
        # With ODP enabled, the constructor would enter the instance into the registry that never lets go.
        instance.odp_manager = cast("Any", parts.odp)
        instance.sdk_settings = parts.settings
        instance.decision_service.forced_variation_map = parts.forced_variations
        instance.logger = instance.decision_service.logger = parts.logger
        return instance


_turns = lock_per_process()
# The process that paused it. A forked child inherits the pause, and nobody there would end it.
_paused_by: set[int] = set()


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Pause cyclic garbage collection for one build: a third of its cost, and its longest stall, for no garbage at all."""
    with _turns.get():
        if not gc.isenabled():  # the app's own wish
            yield
            return
        _paused_by.add(os.getpid())
        gc.disable()
        try:
            yield
        finally:
            # All that was built would be traversed as young, twice, although none of it is garbage: thawing what was frozen
            # puts it straight among the old. Not where the app has frozen something itself.
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()
            _paused_by.clear()


def _resume_in_child() -> None:
    if _paused_by:
        _paused_by.clear()
        gc.enable()


os.register_at_fork(after_in_child=_resume_in_child)
