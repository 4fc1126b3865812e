"""Pods of the manifests as they stand there: the trial without Optimizely, and a Job beside a Deployment's pod."""

import asyncio
import base64
import re
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from datafile_sidecar.cli.simulator import Simulator
from tests.container.machine import ROOT, Machine
from tests.container.manifests import Manifests
from tests.container.pods import KEY, SECRET, UPSTREAM_PORT, WEBHOOK_URL, Pod, wait_for
from tests.container.shop import Visitor, flags
from tests.k8s.kustomize import Object


@asynccontextmanager
async def _optimizely(datafile: bytes) -> AsyncIterator[Simulator]:
    async with Simulator({KEY: datafile}, listen=("127.0.0.1", UPSTREAM_PORT), secret=SECRET.encode()) as upstream:
        upstream.webhook_urls = [WEBHOOK_URL]
        yield upstream


@asynccontextmanager
async def _trial(machine: Machine, name: str) -> AsyncIterator[tuple[Pod, Visitor]]:
    """The simulator and one pod of the shop, in one pod's network, as k8s/try describes them."""
    manifests = Manifests("try", machine.home / f"manifests-{name}")
    shop, template = (manifests.template("Deployment", name) for name in ("shop", "datafile-simulator"))
    (simulator,), (app,) = (one["spec"]["containers"] for one in (template, shop))
    # The port to which the Service leads.
    simulator["args"] = [word.replace("//datafile-webhook/", "//datafile-webhook:8089/") for word in simulator["args"]]
    hosts = ("datafile-simulator", "datafile-webhook", "datafile-peers")
    with Pod(machine, name, hosts=hosts) as pod, pod.network():
        async with Visitor("your-sdk-key") as visitor:
            manifests.run(pod, template, simulator, "simulator", pod.volume)
            manifests.run(pod, shop, shop["spec"]["initContainers"][0], "datafile-sidecar", pod.volume)
            await visitor.ready()
            manifests.run(pod, shop, app, "shop", pod.volume)
            await visitor.sees("Buy")
            await visitor.workers(1)
            yield pod, visitor


async def test_a_flip_of_the_trial(machine: Machine, measured: dict[str, str]) -> None:
    """Who follows "Try it" flips a flag by one command, sees both workers decide by it, and goes on after a restart."""
    async with _trial(machine, "try") as (pod, visitor):
        assert (await visitor.checkout())["new_checkout"] is False
        status, printed = await _flip(pod, "on")
        assert status == 0, printed
        assert "checkout is on: revision 2 is served; webhook answered 202" in printed
        measured["what `flip` says in a pod"] = printed.strip()
        await visitor.workers(2)
        assert (await visitor.checkout())["new_checkout"] is True
        status, printed = await _proof(pod, timeout_s=30)
        assert status == 0, printed
        await asyncio.to_thread(pod.signal, "simulator", "TERM")
        wait_for(lambda: pod.state("simulator")["Status"] == "exited", "podman to notice")
        pod.start("simulator")
        status, printed = await _flip(pod, "off")
        assert (status, "revision 3 is served" in printed) == (0, True), printed
        await visitor.workers(3)
        assert (await visitor.checkout())["new_checkout"] is False


class TestDrill:
    """Steps of docs/drill.md that need no cluster: their commands are those of the page."""

    async def test_a_wrong_signature(self, machine: Machine) -> None:
        """Step 5: a webhook with another secret is refused and explained, and nothing waits for its revision."""
        async with _trial(machine, "drill5") as (pod, visitor):
            status, printed = await _typed(pod, "5. The webhook has a wrong signature")
            assert status == 1
            assert "the sidecar has another secret" in printed
            assert (await visitor.status())["target_revision"] == 1

    async def test_a_worker_that_hangs(self, machine: Machine) -> None:
        """Step 6: the proof names the stopped worker, and ends well when gunicorn has replaced it."""
        async with _trial(machine, "drill6") as (pod, _):
            status, printed = await _typed(pod, "6. A worker of the app hangs")
            assert status == 0, printed
            assert (await _flip(pod, "off"))[0] == 0
            status, printed = await _proof(pod, timeout_s=10)
            assert status == 1
            assert "uses revision 1" in printed
            status, printed = await _proof(pod, timeout_s=60)
            assert status == 0, printed

    async def test_a_full_volume(self, machine: Machine) -> None:
        """Step 7: the pod keeps its datafile, stays ready and says why; when there is room again, it catches up by itself."""
        async with _trial(machine, "drill7") as (pod, visitor):
            status, printed = await _typed(pod, "7. The volume is full")
            assert status != 0
            assert "No space left" in printed
            assert (await _flip(pod, "on"))[0] == 0
            async with asyncio.timeout(20):
                while "No space left" not in ((await visitor.status())["last_error"] or ""):
                    await asyncio.sleep(0.05)
            assert (await visitor.checkout())["new_checkout"] is False
            assert await visitor.probe("/readyz") == 200
            await _typed(pod, "7. The volume is full", number=-1)
            await visitor.revision(2, within_s=60)
            await visitor.workers(2)


async def _typed(pod: Pod, heading: str, number: int = 0) -> tuple[int, str]:
    """Run one of the `kubectl exec … -c CONTAINER -- …` under a heading of the drill in that container."""
    _, _, rest = (ROOT / "docs/drill.md").read_text().partition(f"## {heading}\n")
    lines = rest.partition("\n## ")[0].replace("\\\n", " ")
    commands = re.findall(r"kubectl exec \S+ -c (\S+) -- ([^`\n]+)", lines)
    container, command = commands[number]
    return await asyncio.to_thread(pod.command, container, *shlex.split(command))


async def _proof(pod: Pod, timeout_s: int) -> tuple[int, str]:
    options = ("--wait-for-revision", "latest", "--timeout", str(timeout_s))
    return await asyncio.to_thread(pod.command, "datafile-sidecar", "datafile-sidecar", "status", *options)


async def _flip(pod: Pod, state: str) -> tuple[int, str]:
    """Type it, again and again while the simulator is starting."""
    async with asyncio.timeout(20):
        while True:
            answer = await asyncio.to_thread(pod.command, "simulator", "datafile-sidecar", "flip", "checkout", state)
            if "no simulator" not in answer[1]:
                return answer
            await asyncio.sleep(0.2)


async def test_a_job_ends_beside_a_deployments_pod(machine: Machine) -> None:
    """A Job decides, completes and takes its sidecar with it; the pods that stay are proven as if it had never been there."""
    manifests = Manifests("job", machine.home / "manifests-job", _secret())
    template = manifests.template("Job", "report")
    sidecar, (job,) = template["spec"]["initContainers"][0], template["spec"]["containers"]
    volume = machine.home / "job-volume"
    volume.mkdir()
    volume.chmod(0o777)
    with Pod(machine, "jobs", hosts=("datafile-peers",)) as pod, pod.network():
        async with _optimizely(flags(1, "Buy now")) as optimizely, Visitor() as visitor:
            pod.sidecar(poll_interval_s=3600, peers="datafile-peers:8089")
            await visitor.ready()
            pod.app()
            await visitor.sees("Buy now")
            settings = {
                "DATAFILE_SDK_KEYS": KEY,
                "DATAFILE_URL_TEMPLATE": f"http://127.0.0.1:{UPSTREAM_PORT}/datafiles/{{sdk_key}}.json",
                # In a cluster each pod has its own address; here both have one, and so other ports.
                "DATAFILE_WEBHOOK_LISTEN": ":8189",
                "DATAFILE_ADMIN_LISTEN": ":8188",
            }
            manifests.run(pod, template, sidecar, "job-sidecar", volume, **settings)
            await asyncio.to_thread(wait_for, (volume / f"{KEY}.json").exists, "the Job's datafile")
            manifests.run(pod, template, job, "job", volume, DATAFILE_SDK_KEYS=KEY)
            await asyncio.to_thread(wait_for, lambda: pod.state("job")["Status"] == "exited", "the Job's end")
            assert pod.state("job")["ExitCode"] == 0
            assert "Buy now" in machine.podman("logs", "jobs-job")
            assert await asyncio.to_thread(pod.signal, "job-sidecar", "TERM") < 2
            wait_for(lambda: pod.state("job-sidecar")["Status"] == "exited", "podman to notice")
            assert pod.state("job-sidecar")["ExitCode"] == 0
            assert await optimizely.publish(KEY, flags(2, "Pay")) == 202
            await visitor.sees("Pay")
            command = ("datafile-sidecar", "status", "--wait-for-revision", "2", "--timeout", "15")
            status, printed = await asyncio.to_thread(pod.command, "sidecar", *command)
            assert status == 0, printed


def _secret() -> Object:
    data = {"current": base64.b64encode(SECRET.encode()).decode()}
    return {"kind": "Secret", "metadata": {"name": "datafile-webhook"}, "data": data}
