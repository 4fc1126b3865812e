"""The output of `status`: a summary and a table for people, or JSON, and a progress line on a terminal."""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from datafile_sidecar.cli.status_client import ONE_ROUND_S, StatusClient
from datafile_sidecar.cli.status_receipt import Receipt
from datafile_sidecar.core import fleet_status, fleet_summary, fleet_table
from datafile_sidecar.core.fleet_status import StatusResponse
from datafile_sidecar.core.fleet_summary import FleetSummary
from datafile_sidecar.core.fleet_table import SHOWN, more
from datafile_sidecar.core.wait_target import WaitTarget

if TYPE_CHECKING:
    from datafile_sidecar.cli.status_bus import BusStatusClient
    from datafile_sidecar.cli.status_upstream import UpstreamQuestion

_CLEAR_LINE = "\r\x1b[K"


@dataclass(frozen=True, slots=True)
class Output:
    """How to print: JSON or text, of one SDK key or of all (None), and where to write the receipt."""

    in_json: bool = False
    sdk_key: str | None = None
    receipt: Receipt | None = None


async def ask_and_print(
    client: "StatusClient | BusStatusClient",
    target: WaitTarget | None,
    upstream: "UpstreamQuestion | None",
    timeout_s: float,
    output: Output,
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
    is_confirmed = _is_confirmed(responses, target)
    if is_confirmed and target and output.receipt:
        output.receipt.write(responses, target)
    shown = as_json(responses, target) if output.in_json else as_text(responses, target, output.sdk_key)
    print(shown)  # noqa: T201
    return int(not is_confirmed)


def as_json(responses: Sequence[StatusResponse], target: WaitTarget | None) -> str:
    """Format for programs: every response, and with a target what is lagging."""
    waited: dict[str, Any] = {}
    if target:
        waited = {
            "sdk_key": target.sdk_key,
            "wanted_revision": target.wanted(responses),
            "upstream_revision": target.upstream_revision,
            "lagging": target.lagging(responses),
        }
    summaries = _summaries(responses, target, None)
    waited["summary"] = [summary.fields() for summary in summaries]
    waited["excused"] = [response.label for response in responses if response.is_excused]
    return json.dumps({**waited, "sidecars": [_fields(response) for response in responses]}, indent=2)


def as_text(responses: Sequence[StatusResponse], target: WaitTarget | None, sdk_key: str | None) -> str:
    """Format for people: a summary, a table, and one sentence for each error and each lagging sidecar or worker."""
    summaries = _summaries(responses, target, sdk_key)
    lines = [line for summary in summaries for line in summary.lines()]
    lines += ["", *fleet_table.table(responses, sdk_key, time.time())]
    lines += _listed("errors:", fleet_table.errors(responses, sdk_key))
    if target:
        wanted, lagging, counts = target.wanted(responses), target.lagging(responses), summaries[0]
        revision = "any revision" if wanted is None else f"revision {wanted}"
        lines += _listed(f"not confirmed at {revision}:", lagging)
        lines += _listed("excused, and not known:", counts.excused)
        if not lagging:
            numbers = f"sidecars: {counts.pods}, workers: {counts.workers}"
            lines += ["", f"all confirmed at {revision} or newer ({numbers})"]
    elif excused := [response.label for response in responses if response.is_excused]:
        lines += _listed("excused, and not known:", excused)
    return "\n".join(lines)


def _is_confirmed(responses: Sequence[StatusResponse], target: WaitTarget | None) -> bool:
    if target:
        return not target.lagging(responses)
    return not any(response.problem and not response.is_excused for response in responses)


def _summaries(
    responses: Sequence[StatusResponse], target: WaitTarget | None, sdk_key: str | None
) -> list[FleetSummary]:
    """Count each key; without a target, who has less than the newest revision that any sidecar has or expects lags."""
    if target:
        return [target.summary(responses)]
    known = {name for response in responses if response.status for name in response.status.keys}
    sdk_keys = sorted(known) if sdk_key is None else [sdk_key]
    return [
        fleet_summary.summarise(responses, name, fleet_status.latest_revision(responses, name), workers_required=False)
        for name in sdk_keys
    ]


def _listed(title: str, sentences: Sequence[str]) -> list[str]:
    if not sentences:
        return []
    return [
        "",
        title,
        *(f"  {sentence}" for sentence in sentences[:SHOWN]),
        *(f"  {one}" for one in more(len(sentences))),
    ]


def _show_progress(responses: Sequence[StatusResponse], target: WaitTarget) -> None:
    """Replace the line on the terminal."""
    summary, lagging = target.summary(responses), target.lagging(responses)
    counts = f"{summary.confirmed:,} of {fleet_summary.counted(summary.pods, 'pod')}"
    others = f" (and {len(lagging) - 1:,} more)" if len(lagging) > 1 else ""
    first = f"; waiting: {lagging[0]}" if lagging else ""
    text = f"{counts}{first}"[: shutil.get_terminal_size().columns - len(others) - 1]
    sys.stderr.write(f"{_CLEAR_LINE}{text}{others}")
    sys.stderr.flush()


def _fields(response: StatusResponse) -> dict[str, Any]:
    status = msgspec.to_builtins(response.status)
    place = {"place": response.endpoint, "problem": response.problem, "excused": response.is_excused}
    return {**place, "status": status}
