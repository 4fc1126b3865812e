"""Pods of the manifests as they stand there: the trial without Optimizely, and a Job beside a Deployment's pod."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from datafile_sidecar.cli.simulator import Simulator
from tests.container.machine import Machine
from tests.container.manifests import Manifests
from tests.container.pods import KEY, SECRET, UPSTREAM_PORT, WEBHOOK_URL, Pod, wait_for
from tests.container.shop import Visitor, flags
from tests.k8s.kustomize import Object


@asynccontextmanager
async def _optimizely(datafile: bytes) -> AsyncIterator[Simulator]:
    async with Simulator({KEY: datafile}, listen=("127.0.0.1", UPSTREAM_PORT), secret=SECRET.encode()) as upstream:
        upstream.webhook_urls = [WEBHOOK_URL]
        yield upstream


async def test_a_flip_of_the_trial(machine: Machine, measured: dict[str, str]) -> None:
    """Who follows "Try it" flips a flag by one command, sees both workers decide by it, and goes on after a restart."""
    manifests = Manifests("try", machine.home)
    shop, template = (manifests.template("Deployment", name) for name in ("shop", "datafile-simulator"))
    (simulator,), (app,), sidecar = (
        template["spec"]["containers"],
        shop["spec"]["containers"],
        shop["spec"]["initContainers"][0],
    )
    # The port to which the Service leads.
    simulator["args"] = [word.replace("//datafile-webhook/", "//datafile-webhook:8089/") for word in simulator["args"]]
    hosts = ("datafile-simulator", "datafile-webhook", "datafile-peers")
    with Pod(machine, "try", hosts=hosts) as pod, pod.network():
        async with Visitor("your-sdk-key") as visitor:
            manifests.run(pod, template, simulator, "simulator", pod.volume)
            manifests.run(pod, shop, sidecar, "sidecar", pod.volume)
            await visitor.ready()
            manifests.run(pod, shop, app, "app", pod.volume)
            await visitor.sees("Buy")
            assert (await visitor.checkout())["new_checkout"] is False
            status, printed = await _flip(pod, "on")
            assert status == 0, printed
            assert "checkout is on: revision 2 is served; webhook answered 202" in printed
            measured["what `flip` says in a pod"] = printed.strip()
            await visitor.workers(2)
            assert (await visitor.checkout())["new_checkout"] is True
            proof = await asyncio.to_thread(
                pod.command, "sidecar", "datafile-sidecar", "status", "--wait-for-revision", "latest"
            )
            assert proof[0] == 0, proof[1]
            await asyncio.to_thread(pod.signal, "simulator", "TERM")
            wait_for(lambda: pod.state("simulator")["Status"] == "exited", "podman to notice")
            pod.start("simulator")
            status, printed = await _flip(pod, "off")
            assert (status, "revision 3 is served" in printed) == (0, True), printed
            await visitor.workers(3)
            assert (await visitor.checkout())["new_checkout"] is False


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
    manifests = Manifests("job", machine.home, _secret())
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
                # A pod has addresses of its own; here it has ports of its own.
                "DATAFILE_WEBHOOK_LISTEN": "127.0.0.2:8089",
                "DATAFILE_ADMIN_LISTEN": "127.0.0.2:8088",
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
