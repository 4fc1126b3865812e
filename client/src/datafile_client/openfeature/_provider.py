"""The provider: evaluates flags, tracks events, starts and stops the watcher."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import GeneralError, OpenFeatureError, ProviderNotReadyError
from openfeature.flag_evaluation import FlagResolutionDetails, FlagType, FlagValueType, Reason
from openfeature.provider import AbstractProvider, Metadata
from openfeature.track import TrackingEventDetails
from optimizely.optimizely_user_context import OptimizelyUserContext

from datafile_client import _log
from datafile_client._watcher import OptimizelyWatcher
from datafile_client.errors import DatafileUnavailableError
from datafile_client.openfeature._context import scalars_of, user_id_of
from datafile_client.openfeature._evaluation import evaluate, may_wait
from datafile_client.openfeature._events import EventListener

_Structure: TypeAlias = Sequence[FlagValueType] | Mapping[str, FlagValueType]


class OptimizelyProvider(AbstractProvider):
    """Evaluate Optimizely's flags for OpenFeature, by the datafile that a watcher keeps up to date.

    A boolean is whether the flag is on. A string, an integer or a float is the flag's only variable of that type, an object all of
    its variables. The key "flag.variable" asks for one variable.

    The provider starts the watcher when it is set, and stops it when it is shut down, unless another provider uses it, too. It
    may be set before a fork: each child goes on by itself.

    Args:
        watcher: the watcher. Its `start_timeout_s` is how long `initialize` waits for a datafile, its `stale_after_s` the age at
            which the provider becomes STALE.
    """

    def __init__(self, watcher: OptimizelyWatcher) -> None:
        super().__init__()
        self._watcher = watcher
        self._listener = EventListener(self, watcher)

    def get_metadata(self) -> Metadata:
        """Return the provider's name."""
        return Metadata("Optimizely (datafile-client)")

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        """Start the watcher, and wait for a datafile. If none comes, the watcher goes on, and READY follows when one is there.

        Args:
            evaluation_context: not used.

        Raises:
            ProviderNotReadyError: no datafile came in time.
        """
        self._listener.end()
        self._listener = EventListener(self, self._watcher)
        with self._listener.after_start():
            try:
                self._watcher.start()
            except DatafileUnavailableError as error:
                raise ProviderNotReadyError(str(error)) from error

    def shutdown(self) -> None:
        """Stop the watcher, and send the events that are queued."""
        if self._listener.end():
            self._watcher.stop()

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        """Return whether the flag is on, or the boolean variable that the key names.

        Args:
            flag_key: "flag" or "flag.variable".
            default_value: returned with an error.
            evaluation_context: the user.
        """
        return self._resolve(FlagType.BOOLEAN, flag_key, default_value, evaluation_context)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """Return the flag's only text, or the one that the key names.

        Args:
            flag_key: "flag" or "flag.variable".
            default_value: returned with an error.
            evaluation_context: the user.
        """
        return self._resolve(FlagType.STRING, flag_key, default_value, evaluation_context)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """Return the flag's only integer, or the one that the key names.

        Args:
            flag_key: "flag" or "flag.variable".
            default_value: returned with an error.
            evaluation_context: the user.
        """
        return self._resolve(FlagType.INTEGER, flag_key, default_value, evaluation_context)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """Return the flag's only double, or the one that the key names.

        Args:
            flag_key: "flag" or "flag.variable".
            default_value: returned with an error.
            evaluation_context: the user.
        """
        return self._resolve(FlagType.FLOAT, flag_key, default_value, evaluation_context)

    def resolve_object_details(
        self, flag_key: str, default_value: _Structure, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[_Structure]:
        """Return all variables of the flag by their keys, or the JSON variable that the key names.

        Args:
            flag_key: "flag" or "flag.variable".
            default_value: returned with an error.
            evaluation_context: the user.
        """
        return self._resolve(FlagType.OBJECT, flag_key, default_value, evaluation_context)

    async def resolve_boolean_details_async(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        """Do what `resolve_boolean_details` does (flag_key, default_value, evaluation_context). The event loop is never blocked."""
        return await self._resolve_async(FlagType.BOOLEAN, flag_key, default_value, evaluation_context)

    async def resolve_string_details_async(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """Do what `resolve_string_details` does (flag_key, default_value, evaluation_context). The event loop is never blocked."""
        return await self._resolve_async(FlagType.STRING, flag_key, default_value, evaluation_context)

    async def resolve_integer_details_async(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """Do what `resolve_integer_details` does (flag_key, default_value, evaluation_context). The event loop is never blocked."""
        return await self._resolve_async(FlagType.INTEGER, flag_key, default_value, evaluation_context)

    async def resolve_float_details_async(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """Do what `resolve_float_details` does (flag_key, default_value, evaluation_context). The event loop is never blocked."""
        return await self._resolve_async(FlagType.FLOAT, flag_key, default_value, evaluation_context)

    async def resolve_object_details_async(
        self, flag_key: str, default_value: _Structure, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[_Structure]:
        """Do what `resolve_object_details` does (flag_key, default_value, evaluation_context). The event loop is never blocked."""
        return await self._resolve_async(FlagType.OBJECT, flag_key, default_value, evaluation_context)

    def track(
        self,
        tracking_event_name: str,
        evaluation_context: EvaluationContext | None = None,
        tracking_event_details: TrackingEventDetails | None = None,
    ) -> None:
        """Queue an event for Optimizely. What can't be sent, for want of a user or of a datafile, is logged and dropped.

        Args:
            tracking_event_name: the event's key in Optimizely.
            evaluation_context: the user.
            tracking_event_details: its value becomes the tag "value", its attributes become tags. Optimizely takes the tag
                "revenue" as an amount in cents.

        Raises:
            GeneralError: the name is empty or no text.
        """
        name: object = tracking_event_name
        if not isinstance(name, str) or not name:
            raise GeneralError(f"the name of a tracking event must be a text, not {name!r}")
        details = tracking_event_details or TrackingEventDetails()
        tags = scalars_of(details.attributes) | ({} if details.value is None else scalars_of({"value": details.value}))
        try:
            user = self._user(evaluation_context)
        except OpenFeatureError as error:
            _log.error_now_and_then("An event was not tracked: %s", error)
        else:
            user.track_event(name, cast("Any", tags))

    def _user(self, context: EvaluationContext | None) -> OptimizelyUserContext:
        try:
            return self._watcher.user(user_id_of(context), scalars_of(context.attributes if context else {}))
        except DatafileUnavailableError as error:
            raise ProviderNotReadyError(str(error)) from error

    def _resolve(
        self, wanted: FlagType, key: str, default: Any, context: EvaluationContext | None
    ) -> FlagResolutionDetails[Any]:
        try:
            return evaluate(self._user(context), key, wanted)
        except OpenFeatureError as error:
            code, message = error.error_code, error.error_message
            return FlagResolutionDetails(default, error_code=code, error_message=message, reason=Reason.ERROR)

    async def _resolve_async(
        self, wanted: FlagType, key: str, default: Any, context: EvaluationContext | None
    ) -> FlagResolutionDetails[Any]:
        current = self._watcher._loader.current
        has_profiles = self._watcher._builder.shared.options.get("user_profile_service") is not None
        if has_profiles or (current is not None and may_wait(current.optimizely, key)):
            return await asyncio.to_thread(self._resolve, wanted, key, default, context)
        return self._resolve(wanted, key, default, context)
