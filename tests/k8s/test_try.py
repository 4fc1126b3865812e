"""The trial without Optimizely: its parts fit each other, and it touches nothing outside its namespace."""

from typing import Any

import pytest

from datafile_sidecar.config.settings import load
from tests.k8s.kustomize import FOLDERS, K8S, Object, objects, pod_template, rendered


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], Object]:
    """The objects of the trial, by kind and name."""
    return {(one["kind"], one["metadata"]["name"]): one for one in objects(rendered(FOLDERS["try"]))}


def _pod(found: dict[tuple[str, str], Object], name: str) -> Object:
    template = pod_template(found["Deployment", name])
    assert template
    return template


@pytest.fixture
def simulator(found: dict[tuple[str, str], Object]) -> Object:
    """The simulator's container."""
    (container,) = _pod(found, "datafile-simulator")["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def _options(container: Object) -> dict[str, str]:
    pairs = (word.removeprefix("--").partition("=") for word in container["args"][1:])
    return {name: value for name, _, value in pairs}


def test_it_is_in_a_namespace_of_its_own(found: dict[tuple[str, str], Object]) -> None:
    """Whoever tries it out leaves nothing behind, and takes nothing from others."""
    for (kind, _), one in found.items():
        assert kind == "Namespace" or one["metadata"]["namespace"] == "datafile-try"
    assert ("Namespace", "datafile-try") in found


def test_sidecar_and_simulator_meet(found: dict[tuple[str, str], Object], simulator: Object) -> None:
    """The sidecars fetch from the simulator's Service, for the key that it serves, and it posts to theirs."""
    template = _pod(found, "shop")
    sidecar = template["spec"]["initContainers"][0]
    environment = {entry["name"]: entry.get("value", "") for entry in sidecar["env"]}
    environment["DATAFILE_SDK_KEYS"] = template["metadata"]["annotations"]["datafile-sidecar/sdk-keys"]
    options, settings = _options(simulator), load(environment)
    assert settings.sdk_keys == (options["sdk-key"],)
    service = found["Service", "datafile-simulator"]["spec"]
    (port,) = service["ports"]
    assert settings.url_template == f"http://datafile-simulator:{port['port']}/datafiles/{{sdk_key}}.json"
    assert options["listen"] == f":{simulator['ports'][0]['containerPort']}"
    assert port["targetPort"] == simulator["ports"][0]["name"]
    assert service["selector"].items() <= _pod(found, "datafile-simulator")["metadata"]["labels"].items()
    assert options["webhook-url"] == "http://datafile-webhook/webhooks/optimizely"
    (webhook,) = found["Service", "datafile-webhook"]["spec"]["ports"]
    assert webhook["port"] == 80
    assert simulator["readinessProbe"]["httpGet"]["path"] == f"/datafiles/{options['sdk-key']}.json"


def test_both_read_the_same_secret(found: dict[tuple[str, str], Object], simulator: Object) -> None:
    """The sidecars accept what the simulator signs."""
    names = set()
    sidecar = _pod(found, "shop")["spec"]["initContainers"][0]
    for pod, container in (("datafile-simulator", simulator), ("shop", sidecar)):
        volumes = {one["name"]: one for one in _pod(found, pod)["spec"]["volumes"]}
        (path,) = (one["value"] for one in container["env"] if one["name"] == "DATAFILE_WEBHOOK_SECRETS_PATH")
        (mount,) = (one for one in container["volumeMounts"] if one["mountPath"] == path)
        names.add(volumes[mount["name"]]["secret"]["secretName"])
    assert names == {"datafile-webhook"}
    assert ("Secret", "datafile-webhook") in found


def test_what_is_kept(found: dict[tuple[str, str], Object], simulator: Object) -> None:
    """The flags come from the ConfigMap, and flipped ones are kept on a volume that the simulator may write to."""
    options = _options(simulator)
    mounts: dict[str, Any] = {one["mountPath"]: one for one in simulator["volumeMounts"]}
    volumes = {one["name"]: one for one in _pod(found, "datafile-simulator")["spec"]["volumes"]}
    folder, _, name = options["datafile"].rpartition("/")
    flags = volumes[mounts[folder]["name"]]["configMap"]["name"]
    assert found["ConfigMap", flags]["data"][name] == (K8S.parent / "examples/flags/flags.json").read_text()
    state = mounts[options["state"].rpartition("/")[0]]
    assert "readOnly" not in state
    assert "emptyDir" in volumes[state["name"]]
