"""The alerts and the dashboard: they ask for what is really exported, fire in the state that they are for, and in no other."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import datafiles
from tests.alerts import states
from tests.alerts.promtool import PROMTOOL, alerts, exported, fired, rules, run
from tests.alerts.states import KEY, Samples, State, stage, worker
from tests.broker import Broker, needs_redis
from tests.contract.generated import ROOT

needs_promtool = [
    pytest.mark.system,
    pytest.mark.skipif(PROMTOOL is None, reason="needs promtool: apt-get install prometheus"),
]
DASHBOARD = json.loads((ROOT / "k8s/dashboard/datafile-sidecar.json").read_text())
_QUERY = re.compile(r"(datafile_sidecar_\w+|process_\w+)(?:\{([^}]*)\})?")
_SELECTOR = re.compile(r'(\w+)(=~|=|!=|!~)"([^"]*)"')
_TARGET = {"namespace", "job", "pod", "instance"}


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in board["panels"]:
        yield panel
        yield from panels({"panels": panel.get("panels", [])})


def queries() -> list[str]:
    """Everything that the dashboard asks Prometheus for, variables filled in."""
    asked = [target["expr"] for panel in panels(DASHBOARD) for target in panel.get("targets", [])]
    return [expression.replace("$__rate_interval", "5m").replace("$sdk_key", KEY) for expression in asked]


def expressions() -> list[str]:
    """Every alert's expression."""
    text = re.sub(r"expr: >-\n((?:\s{10,}.*\n)+)", lambda match: f"expr: {' '.join(match[1].split())}\n", rules())
    return re.findall(r"expr: (.*)", text)


async def everything(directory: Path) -> Samples:
    """A scrape in which each metric has been moved."""
    async with stage(directory) as one, worker(one, 43):
        await one.publish(44, announced=True)
        return (await one.scrape()).samples


async def test_what_is_asked_is_exported(tmp_path: Path) -> None:
    """No alert and no panel is silent for asking after a metric, a label or a label's value that does not exist."""
    known = exported(await everything(tmp_path))
    assert len(expressions()) == len(alerts())
    for expression in [*expressions(), *queries()]:
        asked = _QUERY.findall(expression)
        assert asked, expression
        for metric, selectors in asked:
            assert metric in known, f"{metric} in {expression}"
            for label, operator, values in _SELECTOR.findall(selectors):
                if label in _TARGET or label == "sdk_key":
                    continue
                for value in values.split("|") if "~" in operator else [values]:
                    assert value in known[metric].get(label, ()), f"{label}={value} in {expression}"
        for group in re.findall(r"\bby \(([^)]*)\)", expression):
            labels = {label.strip() for label in group.split(",")} - _TARGET - {"le"}
            assert all(labels <= known[metric].keys() for metric, _ in asked), expression


def test_runbook() -> None:
    """Each alert leads to a place in the runbook, under its own name."""
    text = (ROOT / "docs/operations.md").read_text()
    headings = re.findall(r"^#+ (Datafile\w+)$", text, re.MULTILINE)
    assert headings == alerts()
    assert re.findall(r"runbook: docs/operations.md#(\w+)", rules()) == [name.lower() for name in alerts()]


@pytest.mark.parametrize(
    "part", [pytest.param("rules", marks=needs_promtool), pytest.param("queries", marks=needs_promtool)]
)
def test_syntax(tmp_path: Path, part: str) -> None:
    """Prometheus takes the rules, and every query of the dashboard."""
    recorded = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(queries())]
    text = rules() if part == "rules" else json.dumps({"groups": [{"name": "dashboard", "rules": recorded}]})
    (tmp_path / "rules.yaml").write_text(text)
    done = run(tmp_path, "check", "rules", "rules.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


async def aftermath(
    directory: Path, enter: State, *, worker_at: int = 99, says: dict[str, object] | None = None, **settings: Any
) -> set[str]:
    """The alerts that fire for a sidecar which gets into a state and stays there."""
    async with stage(directory / "volume", **settings) as one, worker(one, worker_at, **(says or {})):
        before = await one.scrape()
        if enter in {states.outage, states.webhooks_missed}:
            if enter is states.webhooks_missed:
                await one.publish(44, announced=True)
            else:
                await enter(one)
            before = await one.scrape()
        await enter(one)
        return await asyncio.to_thread(fired, directory, before, await one.scrape())


class TestFiring:
    """Each alert fires in its state, and no other one does."""

    pytestmark = needs_promtool

    @pytest.mark.parametrize(
        ("enter", "alert"),
        [
            (states.outage, "DatafileNotConfirmed"),
            (states.target_not_reached, "DatafileTargetNotReached"),
            (states.webhooks_missed, "DatafileWebhooksMissed"),
            (states.signatures_rejected, "DatafileSignaturesRejected"),
        ],
    )
    async def test_state(self, tmp_path: Path, enter: State, alert: str) -> None:
        """Whoever is on call hears of the one thing that is wrong."""
        assert await aftermath(tmp_path, enter) == {alert}

    async def test_publish_failing(self, tmp_path: Path) -> None:
        """A volume that can't be written to alarms as such; that nothing is confirmed meanwhile follows from it."""
        alerting = await aftermath(tmp_path, states.publish_failing)
        assert alerting == {"DatafilePublishFailing", "DatafileNotConfirmed"}

    async def test_absent(self, tmp_path: Path) -> None:
        """A pod without any datafile alarms as such."""
        assert await aftermath(tmp_path, states.nothing_new, sdk_keys="KEY2", ready=False) == {"DatafileAbsent"}

    async def test_bootstrap(self, tmp_path: Path) -> None:
        """A pod that lives on its bootstrap file, which upstream has never confirmed, alarms although it is ready."""
        (tmp_path / "KEY1.json").write_bytes(datafiles.minimal(42))
        settings: dict[str, Any] = {
            "url_template": "http://127.0.0.1:9/{sdk_key}.json",
            "bootstrap_dir": tmp_path,
            "bootstrap_after_s": 0,
        }
        assert await aftermath(tmp_path, states.nothing_new, **settings) == {"DatafileNotConfirmed"}

    async def test_worker_behind(self, tmp_path: Path) -> None:
        """A process that goes on deciding by an old revision alarms."""
        assert await aftermath(tmp_path, states.as_it_is, worker_at=42) == {"DatafileWorkersBehind"}

    async def test_worker_refuses(self, tmp_path: Path) -> None:
        """A process that can't use what was published alarms as such."""
        refused: dict[str, object] = {"refused": {"reason": "unsupported version"}}
        assert await aftermath(tmp_path, states.as_it_is, says=refused) == {"DatafileUnusable"}

    async def test_bus_down(self, tmp_path: Path) -> None:
        """A broker that is gone alarms, and nothing else does: the pod polls for itself."""
        alerting = await aftermath(tmp_path, states.as_it_is, bus_url="redis://127.0.0.1:9/0")
        assert alerting == {"DatafileBusDown"}

    def test_all(self) -> None:
        """No alert is left untried."""
        tried = set(re.findall(r'"(Datafile\w+)"', Path(__file__).read_text()))
        assert tried == set(alerts())


class TestSilent:
    """A healthy sidecar fires no alert."""

    pytestmark = needs_promtool

    async def test_healthy(self, tmp_path: Path) -> None:
        """A sidecar that gets webhooks and has no bus is left in peace."""
        assert await aftermath(tmp_path, states.healthy) == set()

    @needs_redis
    async def test_healthy_with_a_bus(self, tmp_path: Path) -> None:
        """So is one that has a bus."""
        async with Broker() as broker:
            assert await aftermath(tmp_path, states.healthy, bus_url=broker.url) == set()

    async def test_never_a_webhook(self, tmp_path: Path) -> None:
        """A key whose environment never sends a webhook lives by polling, and that is no news."""
        assert await aftermath(tmp_path, states.never_a_webhook) == set()

    async def test_nobody_uses_the_client(self, tmp_path: Path) -> None:
        """A pod whose app reads the file by itself has no workers, and none is missed."""
        async with stage(tmp_path / "volume") as one:
            before = await one.scrape()
            await states.healthy(one)
            assert await asyncio.to_thread(fired, tmp_path, before, await one.scrape()) == set()
