"""The output of `status`: a table for people, or JSON, and a progress line on a terminal."""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from datafile_sidecar.cli.status_client import ONE_ROUND_S, StatusClient
from datafile_sidecar.core import fleet_status
from datafile_sidecar.core.fleet_status import StatusResponse
from datafile_sidecar.core.wait_target import WaitTarget

if TYPE_CHECKING:
    from datafile_sidecar.cli.status_upstream import UpstreamQuestion

_CLEAR_LINE = "\r\x1b[K"


async def ask_and_print(
    client: StatusClient,
    target: WaitTarget | None,
    upstream: "UpstreamQuestion | None",
    sdk_key: str | None,
    timeout_s: float,
    in_json: bool,
) -> int:
    """Ask once, or wait for the target, and print. Returns the exit status.

    0 means that the target is confirmed or, without a target, that every sidecar has answered.
    """
    started = time.monotonic()
    if target and upstream:
        target = await upstream.answer(target, timeout_s)
    left_s = max(0.001, started + timeout_s - time.monotonic()) if timeout_s else 0.0
    # Without upstream's revision nothing can be confirmed: the sidecars are asked once, to show them.
    if target is None or target.upstream_problem:
        responses = await client.ask(left_s or ONE_ROUND_S)
    elif sys.stderr and sys.stderr.isatty():
        responses, target = await client.wait(target, left_s, _show_progress)
        sys.stderr.write(_CLEAR_LINE)
    else:
        responses, target = await client.wait(target, left_s)
    print(as_json(responses, target) if in_json else as_text(responses, target, sdk_key))  # noqa: T201
    return int(bool(target.lagging(responses) if target else any(response.problem for response in responses)))


def as_json(responses: Sequence[StatusResponse], target: WaitTarget | None) -> str:
    """Format for programs: every response, and with a target what is lagging."""
    waited: dict[str, Any] = {}
    if target:
        wanted, lagging = target.wanted(responses), target.lagging(responses)
        waited = {
            "sdk_key": target.sdk_key,
            "wanted_revision": wanted,
            "upstream_revision": target.upstream_revision,
            "lagging": lagging,
        }
    return json.dumps({**waited, "sidecars": [_fields(response) for response in responses]}, indent=2)


def as_text(responses: Sequence[StatusResponse], target: WaitTarget | None, sdk_key: str | None) -> str:
    """Format for people: a table, then one sentence for each error and for each lagging sidecar or worker."""
    lines = fleet_status.table(responses, sdk_key, time.time())
    if errors := fleet_status.errors(responses, sdk_key):
        lines += ["", "errors:", *(f"  {sentence}" for sentence in errors)]
    if target:
        wanted, lagging = target.wanted(responses), target.lagging(responses)
        revision = "any revision" if wanted is None else f"revision {wanted}"
        confirmed = f"all confirmed at {revision} or newer ({_counts(responses, target.sdk_key)})"
        lines += ["", f"not confirmed at {revision}:" if lagging else confirmed]
        lines += [f"  {sentence}" for sentence in lagging]
    return "\n".join(lines)


def _counts(responses: Sequence[StatusResponse], sdk_key: str) -> str:
    """Say how many there are: the user may know of more."""
    keys = [response.status.keys.get(sdk_key) for response in responses if response.status]
    workers = sum(len(key.workers) for key in keys if key)
    return f"sidecars: {len(keys)}, workers: {workers}"


def _show_progress(lagging: list[str]) -> None:
    """Replace the line on the terminal."""
    more = f" (and {len(lagging) - 1} more)" if len(lagging) > 1 else ""
    text = f"waiting: {lagging[0]}"[: shutil.get_terminal_size().columns - len(more) - 1]
    sys.stderr.write(f"{_CLEAR_LINE}{text}{more}")
    sys.stderr.flush()


def _fields(response: StatusResponse) -> dict[str, Any]:
    status = msgspec.to_builtins(response.status)
    return {"place": response.endpoint, "problem": response.problem, "status": status}
