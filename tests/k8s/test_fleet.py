"""The gateway of a fleet, and the services behind it: their parts fit each other, and nothing else gets in."""

import pytest

from datafile_sidecar.config.settings import VARIABLES, load
from tests.k8s.kustomize import FOLDERS, Object, objects, pod_template, rendered


@pytest.fixture(scope="module")
def found() -> dict[str, Object]:
    """The objects of the gateway, by kind: there is one of each."""
    found = objects(rendered(FOLDERS["fleet"]))
    assert len({one["kind"] for one in found}) == len(found)
    return {one["kind"]: one for one in found}


@pytest.fixture(scope="module")
def pod(found: dict[str, Object]) -> Object:
    """The gateway's pod template."""
    template = pod_template(found["Deployment"])
    assert template
    return template


def test_one_of_two_is_always_there(found: dict[str, Object], pod: Object) -> None:
    """A node that is drained, or a rollout, leaves a gateway that takes webhooks, on another node where there is one."""
    labels = pod["metadata"]["labels"]
    assert found["Deployment"]["spec"]["replicas"] >= 2
    assert found["PodDisruptionBudget"]["spec"]["minAvailable"] == 1
    (spread,) = pod["spec"]["topologySpreadConstraints"]
    for selector in (
        found["Deployment"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"],
        spread["labelSelector"],
    ):
        assert selector["matchLabels"].items() <= labels.items()
    assert pod["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "3"]


def test_the_way_in(found: dict[str, Object], pod: Object) -> None:
    """Optimizely reaches the webhook port by one path, and nobody outside reaches another."""
    ((path,),) = (rule["http"]["paths"] for rule in found["Ingress"]["spec"]["rules"])
    assert (path["path"], path["pathType"]) == ("/webhooks/optimizely", "Exact")
    backend, service = path["backend"]["service"], found["Service"]
    (port,) = service["spec"]["ports"]
    assert (backend["name"], backend["port"]["name"]) == (service["metadata"]["name"], port["name"])
    assert port["targetPort"] == 8089
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


def test_it_understands_its_environment(found: dict[str, Object], pod: Object) -> None:
    """The gateway knows each variable, has all keys, the secrets and the bus, and asks no peers."""
    (container,) = pod["spec"]["containers"]
    environment = {entry["name"]: entry for entry in container["env"]}
    assert environment.keys() <= {variable.name for variable in VARIABLES}
    assert environment.keys() >= {"DATAFILE_BUS_URL", "DATAFILE_WEBHOOK_SECRETS_PATH"}
    assert "DATAFILE_PEERS" not in environment
    reference = environment["DATAFILE_SDK_KEYS"]["valueFrom"]["configMapKeyRef"]
    assert reference["name"] == found["ConfigMap"]["metadata"]["name"]
    assert len(load({"DATAFILE_SDK_KEYS": found["ConfigMap"]["data"][reference["key"]]}).sdk_keys) == 2
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts[environment["DATAFILE_DIR"]["value"]] == "datafile"
    assert mounts[environment["DATAFILE_WEBHOOK_SECRETS_PATH"]["value"]] == "datafile-webhook-secrets"


def test_it_is_the_sidecar(pod: Object) -> None:
    """The gateway is the same daemon, under the same rules; only memory, and readiness by the webhook port, are its own."""
    (container,) = pod["spec"]["containers"]
    (deployment,) = (one for one in objects(rendered(FOLDERS["sidecar"])) if one["kind"] == "Deployment")
    sidecar = deployment["spec"]["template"]["spec"]["initContainers"][0]
    for name in ("ports", "startupProbe", "livenessProbe", "securityContext", "volumeMounts"):
        assert container[name] == sidecar[name], name
    assert container["readinessProbe"]["httpGet"] == {"path": "/livez", "port": "datafile-admin"}
    (volume,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "datafile")
    size, limit = volume["emptyDir"]["sizeLimit"], container["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("Mi")) > 64 + int(size.removesuffix("Mi"))


def test_services_share_its_bus_and_nothing_else(pod: Object) -> None:
    """The pods of the services read the same key of the same Secret, and hold no webhook secret."""
    (gateway,) = pod["spec"]["containers"]
    bus = next(entry for entry in gateway["env"] if entry["name"] == "DATAFILE_BUS_URL")
    services = [one for one in objects(rendered(FOLDERS["all-kinds-fleet"])) if one["metadata"].get("labels")]
    assert len(services) == 5
    for service in services:
        template = pod_template(service)
        assert template
        sidecar = template["spec"]["initContainers"][0]
        assert bus in sidecar["env"]
        assert not {"DATAFILE_WEBHOOK_SECRETS_PATH", "DATAFILE_PEERS"} & {entry["name"] for entry in sidecar["env"]}
        assert not [volume for volume in template["spec"]["volumes"] if "secret" in volume]
