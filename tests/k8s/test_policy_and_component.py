"""The policy and the kustomize component add the same: a pod is compared with a pod, whoever made it."""

import copy
from collections.abc import Iterator

import pytest

from tests.k8s.admission import PolicyError, Server, pod_of, replaced
from tests.k8s.kustomize import FOLDERS, INJECT, WORKLOADS, Object, objects, rendered

_ANNOTATION = "datafile-sidecar/without-datafile"
_COMPONENTS = {"unready": "all-kinds", "strict": "all-kinds-strict", "lenient": "all-kinds-lenient"}
_IMAGE = "registry.example.com/datafile-sidecar:0.1.0"


def _workloads(text: str) -> dict[str, Object]:
    return {found["kind"]: found for found in objects(text) if found["metadata"]["name"].startswith("with-")}


def _by_component(text: str) -> dict[str, Object]:
    """The pods of the workloads that the component has changed, with the image that `images:` would set."""
    pods = {kind: pod_of(workload) for kind, workload in _workloads(text).items()}
    for pod in pods.values():
        sidecar = pod["spec"]["initContainers"][0]
        assert sidecar["image"] == "datafile-sidecar"
        sidecar["image"] = _IMAGE
    return pods


def _by_policy(server: Server, without_datafile: str) -> Iterator[tuple[str, Object]]:
    """The pods that the policy makes of the same workloads, without what asked for them."""
    for kind, workload in _workloads(rendered(WORKLOADS / "kinds")).items():
        pod = pod_of(workload, **{INJECT: "true"})
        pod["metadata"]["annotations"][_ANNOTATION] = without_datafile
        admission = server.admit(pod)
        assert not admission.refusals, kind
        del admission.object["metadata"]["labels"][INJECT]
        del admission.object["metadata"]["annotations"][_ANNOTATION]
        yield kind, admission.object


def test_they_take_the_same_away() -> None:
    """Services behind a gateway get the same pods by either way: a bus, and neither secret nor peers, nor their labels."""
    settings = (
        ("'webhookSecret': 'datafile-webhook'", "'webhookSecret': ''"),
        ("'peers': 'datafile-peers:8089'", "'peers': ''"),
    )
    installed = replaced(Server().installed, "'busSecret': ''", "'busSecret': 'datafile-bus'")
    for written, instead in settings:
        installed = replaced(installed, written, instead)
    _compare(Server(installed), {"unready": rendered(FOLDERS["all-kinds-fleet"])})


def _compare(server: Server, components: dict[str, str]) -> None:
    """Raise AssertionError where policy and component make different pods.

    The order of volumes means nothing, and neither does that of the sidecar's variables, which refer to no other.
    """
    kinds = set()
    for without_datafile, text in components.items():
        expected = _by_component(text)
        for kind, pod in _by_policy(server, without_datafile):
            kinds.add(kind)
            assert _in_order(pod) == _in_order(expected[kind]), f"{kind}, {without_datafile}"
    assert kinds == {"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"}


def _in_order(pod: Object) -> Object:
    ordered = copy.deepcopy(pod)
    for named in (ordered["spec"]["volumes"], ordered["spec"]["initContainers"][0]["env"]):
        named.sort(key=lambda one: one["name"])
    return ordered


def _rendered_components() -> dict[str, str]:
    return {without_datafile: rendered(FOLDERS[name]) for without_datafile, name in _COMPONENTS.items()}


def test_they_add_the_same() -> None:
    """Whoever moves from the component to the policy, or back, gets the same pods, for each kind and each behaviour."""
    _compare(Server(), _rendered_components())


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ('"DATAFILE_DIR", value', '"DATAFILE_FOLDER", value'),
        ("'peers': 'datafile-peers:8089'", "'peers': 'datafile-peers:8088'"),
        ('name: "datafile-hook", containerPort: 8089', 'name: "datafile-hook", containerPort: 8090'),
        ("failureThreshold: 3", "failureThreshold: 4"),
        ('== "strict" ? 900 : 60', '== "strict" ? 60 : 60'),
        ('"lenient" ? optional.none()', '"strict" ? optional.none()'),
        ('"memory": "48Mi"', '"memory": "32Mi"'),
        ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"),
        ("runAsGroup: 65532", "runAsGroup: 0"),
        ("'sizeLimit': '24Mi'", "'sizeLimit': '25Mi'"),
        ('medium: "Memory", ', ""),
        ('mountPath: "/var/run/datafile", readOnly: true', 'mountPath: "/var/run/datafile"'),
        ('restartPolicy: "Always"', 'restartPolicy: "OnFailure"'),
        ("!variables.stays ||", ""),
        ('"datafile-sidecar/injected"', '"datafile-sidecar/inject"'),
        ("/spec/initContainers/0", "/spec/initContainers/-"),
        ('path: "/livez"', 'path: "/readyz"'),
    ],
)
def test_a_changed_policy_is_noticed(written: str, instead: str) -> None:
    """A change of the policy alone fails, whatever it concerns: names, environment, ports, probes, resources, rights, volumes."""
    server = Server()
    installed = replaced(server.installed, written, instead)
    assert installed != server.installed, f"{written} is not in the policy"
    with pytest.raises((AssertionError, PolicyError, KeyError)):
        _compare(Server(installed), _rendered_components())


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ("name: DATAFILE_WEBHOOK_SECRETS_PATH", "name: DATAFILE_SECRETS"),
        ("value: datafile-peers:8089", "value: datafile-peers:8090"),
        ("containerPort: 8088", "containerPort: 8080"),
        ("periodSeconds: 10", "periodSeconds: 11"),
        ("failureThreshold: 900", "failureThreshold: 901"),
        ("cpu: 10m", "cpu: 11m"),
        ("memory: 128Mi", "memory: 129Mi"),
        ("type: RuntimeDefault", "type: Unconfined"),
        ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"),
        ("sizeLimit: 24Mi", "sizeLimit: 23Mi"),
        ("secretName: datafile-webhook", "secretName: datafile-hook"),
        ("mountPath: /etc/datafile-sidecar/webhook-secrets", "mountPath: /etc/secrets"),
        ('datafile-sidecar/webhook: "true"', 'datafile-sidecar/hook: "true"'),
        ("name: datafile-admin", "name: admin"),
    ],
)
def test_a_changed_component_is_noticed(written: str, instead: str) -> None:
    """A change of the component alone fails in the same way."""
    components = _rendered_components()
    changed = {name: text.replace(written, instead) for name, text in components.items()}
    assert changed != components, f"{written} is not in the component"
    with pytest.raises((AssertionError, KeyError)):
        _compare(Server(), changed)
