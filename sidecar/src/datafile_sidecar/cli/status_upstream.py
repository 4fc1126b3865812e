"""The newest revision that upstream serves, for `status --wait-for-revision latest`: asked as the daemon asks."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version

from datafile_sidecar.cli.status_client import ONE_ROUND_S
from datafile_sidecar.config.credentials import CredentialsError, Tokens
from datafile_sidecar.config.settings import Settings
from datafile_sidecar.core import datafile, url_policy
from datafile_sidecar.core.datafile import InvalidDatafileError
from datafile_sidecar.core.display_text import printable
from datafile_sidecar.core.wait_target import WaitTarget
from datafile_sidecar.network.single_flight import SingleFlight
from datafile_sidecar.upstream import Fetched, FetchError, Upstream

_PASSING = frozenset({"unreachable", "timeout", "server_error", "throttled"})
_ATTEMPTS = 3
_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class UpstreamQuestion:
    """Asks with the template, the access token and the proxies of these settings.

    `is_required` is false when the revisions that sidecars know are enough where upstream can't be asked.
    """

    settings: Settings
    environ: Mapping[str, str] = field(repr=False)
    is_required: bool = True

    async def answer(self, target: WaitTarget, timeout_s: float) -> WaitTarget:
        """Return the target with upstream's revision, or with the problem.

        Args:
            target: With the SDK key to ask for.
            timeout_s: For the whole command: the sidecars, which are asked afterwards, need some of it.
        """
        allowed_s = timeout_s - min(timeout_s / 2, ONE_ROUND_S) or ONE_ROUND_S
        problem = f"no answer within {allowed_s:.2g} s"
        try:
            async with asyncio.timeout(allowed_s):
                for number in range(1, _ATTEMPTS + 1):
                    try:
                        revision = await self._newest_revision(target.sdk_key, allowed_s)
                        return replace(target, upstream_revision=revision)
                    except FetchError as error:
                        problem = printable(str(error))
                        if error.outcome not in _PASSING or number == _ATTEMPTS:
                            break
                    await asyncio.sleep(_AGAIN_S)
        except TimeoutError:
            pass
        except (CredentialsError, InvalidDatafileError, OSError) as error:
            problem = printable(str(error))
        return replace(target, upstream_problem=problem) if self.is_required else target

    async def _newest_revision(self, sdk_key: str, timeout_s: float) -> int:
        # Not in asyncio's thread pool: a mount that hangs would hold up the end of the process.
        read = SingleFlight(partial(Tokens, self.settings.access_tokens_path, (sdk_key,)), "access tokens")
        token = (await read.result()).get(sdk_key)
        template = url_policy.default_template(self.settings.url_template, has_token=token is not None)
        agent = f"datafile-sidecar/{version('datafile-sidecar')}"
        async with Upstream(template=template, environ=self.environ, user_agent=agent, timeout_s=timeout_s) as upstream:
            answer = await upstream.fetch(upstream.url(sdk_key), sdk_key=sdk_key, token=token)
        assert isinstance(answer, Fetched)  # nothing else answers an unconditional request
        parse = SingleFlight(partial(datafile.parse, answer.body, sdk_key), "validation")
        return (await parse.result()).revision
