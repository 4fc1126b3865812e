"""Two minutes without Optimizely at the start of a pod. It runs beside the other tests of this folder."""

import asyncio

from datafile_sidecar.cli.simulator import Simulator
from tests.container.machine import Machine
from tests.container.outage import LASTS_S, Outage
from tests.container.pods import KEY, UPSTREAM_PORT, age_s
from tests.container.shop import Visitor, flags

_STARTUP_S = 60
"""As long as the startup probe of the manifests waits: a failure a second, sixty of them."""


async def test_a_pod_that_starts_in_an_outage_lives_and_heals(
    machine: Machine, outage: Outage, measured: dict[str, str]
) -> None:
    """Optimizely is down for two minutes as a pod starts: nothing is restarted, the app decides by its fallback, all heals."""
    await asyncio.sleep(outage.remaining_s())
    assert age_s(outage.sidecar_pid) >= LASTS_S
    assert (outage.pid("sidecar"), outage.pid("app")) == (outage.sidecar_pid, outage.app_pid)
    probes = outage.probes
    alive = [probe["livez"] for probe in probes].index(200)
    assert alive < _STARTUP_S
    assert {probe["livez"] for probe in probes[alive:]} == {200}
    assert {probe["readyz"] for probe in probes[alive:]} == {503}
    assert {probe["app"] for probe in probes[-60:]} == {200}
    with outage.network():
        async with Visitor() as visitor:
            assert (await visitor.checkout())["text"] == "Buy"
            upstream = Simulator({KEY: flags(7, "Healed")}, listen=("127.0.0.1", UPSTREAM_PORT), secret=None)
            async with upstream:
                healed_s = await visitor.sees("Healed", within_s=60)
    measured["after two minutes of outage, seconds until the app decides by the real datafile"] = f"{healed_s:.1f}"
