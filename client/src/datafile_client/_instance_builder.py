"""Builds `Optimizely` instances from a datafile's bytes. Knows no files.

`Optimizely(datafile)` would leak every instance (the SDK registers them for the whole process), validate again what the sidecar
has validated, and build an OptimizelyConfig that few apps ask for. A config manager of our own avoids all three.
"""

import datetime
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast, final

from optimizely.config_manager import BaseConfigManager
from optimizely.helpers import validator
from optimizely.helpers.sdk_settings import OptimizelySdkSettings
from optimizely.optimizely import Optimizely
from optimizely.optimizely_config import OptimizelyConfig, OptimizelyConfigService
from optimizely.project_config import ProjectConfig

from datafile_client._gc_pause import gc_paused
from datafile_client._shared_components import SharedComponents
from datafile_client.errors import InvalidDatafileError

_PASSED_THROUGH = ("default_decide_options", "event_dispatcher", "user_profile_service")
_BOM = b"\xef\xbb\xbf"
# Created without logging.getLogger, because the app's logging.config could enable a registered logger again.
_silent_logger = logging.Logger("datafile_client.silent", logging.CRITICAL + 1)


@final
@dataclass(frozen=True, slots=True)
class BuiltInstance:
    """One instance and the datafile that it was built from."""

    optimizely: Optimizely
    revision: int
    sha256: str
    source: str
    loaded_at: datetime.datetime
    datafile: str


class FixedConfigManager(BaseConfigManager):
    """Always returns the same ProjectConfig. Builds the OptimizelyConfig when it is first asked for."""

    def __init__(self, config: ProjectConfig, shared: SharedComponents) -> None:
        super().__init__(shared.logger, shared.error_handler, shared.notification_center)
        self._config = config

    def get_config(self) -> ProjectConfig:
        """Return the config."""
        return self._config

    def get_sdk_key(self) -> str | None:
        """Return the SDK key that the datafile names, or None if it names none."""
        return self._config.sdk_key

    @cached_property
    def optimizely_config(self) -> OptimizelyConfig | None:  # type: ignore[override]
        """The SDK's view of the datafile for apps. Building it takes up to half of a rebuild's time, and few apps use it."""
        return OptimizelyConfigService(self._config, self.logger).get_config()


class InstanceBuilder:
    """Builds instances for one SDK key. They share their components."""

    def __init__(self, sdk_key: str, options: Mapping[str, Any]) -> None:
        self._sdk_key = sdk_key
        self.shared = SharedComponents(options)

    def build(self, data: bytes, sha256: str, path: Path, source: str = "file", *, prevalidated: bool) -> BuiltInstance:
        """Build an instance, and give its ODP account to the shared ODP manager. A failure changes nothing.

        Args:
            data: the datafile.
            sha256: its digest.
            path: where it was read, for error messages.
            source: "file" or "fallback".
            prevalidated: skips the SDK's schema check, because the sidecar has validated these bytes.

        Raises:
            InvalidDatafileError: the SDK cannot use these bytes, or they belong to another SDK key.
        """
        with gc_paused():
            config = self._parse(data.removeprefix(_BOM), path, prevalidated=prevalidated)
            optimizely = self._make_instance(config)
        self.shared.odp_manager.update_odp_config(config.public_key_for_odp, config.host_for_odp, config.all_segments)
        return BuiltInstance(
            optimizely, int(config.revision), sha256, source, datetime.datetime.now(datetime.UTC), config.to_datafile()
        )

    def _parse(self, data: bytes, path: Path, *, prevalidated: bool) -> ProjectConfig:
        if not (prevalidated or self.shared.options.get("skip_json_validation") or validator.is_datafile_valid(data)):
            raise InvalidDatafileError(path, "not JSON, or not valid by the SDK's schema of a datafile")
        try:
            config = ProjectConfig(data, self.shared.logger, self.shared.error_handler)
        except Exception as error:
            # The schema does not check everything. A flag that refers to a missing rollout, for example, fails only here.
            raise InvalidDatafileError(path, f"the SDK cannot use it ({type(error).__name__}: {error})") from error
        if config.sdk_key not in (None, "", self._sdk_key):
            raise InvalidDatafileError(path, f"it is the datafile of another SDK key, {config.sdk_key!r}")
        revision: object = config.revision
        if not (isinstance(revision, str) and re.fullmatch("[0-9]{1,18}", revision)):
            raise InvalidDatafileError(path, f"its revision is not a decimal number in quotes: {revision!r}")
        return config

    def _make_instance(self, config: ProjectConfig) -> Optimizely:
        shared = self.shared
        instance = Optimizely(
            logger=_silent_logger,  # the constructor would log that ODP is disabled
            error_handler=shared.error_handler,
            config_manager=FixedConfigManager(config, shared),
            notification_center=shared.notification_center,
            event_processor=shared.event_processor,
            settings=OptimizelySdkSettings(odp_disabled=True),
            cmab_service=shared.cmab_service,
            **{name: shared.options.get(name) for name in _PASSED_THROUGH},
        )
        # With ODP enabled, the constructor would add the instance to a registry that never releases it.
        instance.odp_manager = cast("Any", shared.odp_manager)
        instance.sdk_settings = shared.settings
        instance.decision_service.forced_variation_map = shared.forced_variations
        instance.logger = instance.decision_service.logger = shared.logger
        return instance
