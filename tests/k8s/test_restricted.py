"""Every pod of ours, and every pod that gets the sidecar, is admitted where `restricted` is enforced."""

import copy
from typing import Any

import pytest

from tests.k8s.admission import Server, plain_pod
from tests.k8s.kustomize import FOLDERS, K8S, Object, all_objects, objects, pod_template, rendered
from tests.k8s.restricted import violations

_OURS = {name for name, folder in FOLDERS.items() if folder.is_relative_to(K8S)}
_ALLOWED: Object = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {"name": "web", "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}
    ],
}


def _pods() -> list[tuple[str, Object]]:
    pairs = ((f"{name}/{found['kind']}", pod_template(found)) for name, found in all_objects() if name in _OURS)
    return [(where, template["spec"]) for where, template in pairs if template]


def test_our_pods() -> None:
    """Each pod of an example is admitted, gets no service account token, no service links, and no file system to write to."""
    pods = _pods()
    assert {where.rpartition("/")[2] for where, _ in pods} >= {"Deployment", "StatefulSet", "Job", "CronJob"}
    for where, spec in pods:
        assert violations(spec) == [], where
        assert (spec["enableServiceLinks"], spec["automountServiceAccountToken"]) == (False, False), where
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, where


def test_the_component_adds_nothing_to_object_to() -> None:
    """A workload of somebody else's has no violation more than before because of the sidecar."""
    for name in ("all-kinds", "all-kinds-strict", "all-kinds-lenient", "watched", "changed"):
        for found in objects(rendered(FOLDERS[name])):
            template = pod_template(found)
            if template and template["spec"].get("initContainers"):
                assert not [one for one in violations(template["spec"]) if one.startswith("datafile")], name


def test_the_policy_adds_nothing_to_object_to() -> None:
    """A pod that a `restricted` namespace admits is admitted after the policy has changed it, too."""
    spec = copy.deepcopy(_ALLOWED)
    admission = Server().admit(plain_pod(spec))
    assert admission.object["spec"]["initContainers"][0]["name"] == "datafile-sidecar"
    assert violations(admission.object["spec"]) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("hostNetwork", True), ("hostPID", True), ("hostIPC", True),
        ("volumes", [{"name": "v", "hostPath": {"path": "/"}}]),
        ("securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}]),
        ("securityContext.runAsUser", 0), ("securityContext.runAsNonRoot", False), ("securityContext.seccompProfile", {}),
        ("securityContext.seLinuxOptions", {"type": "spc_t"}), ("securityContext.appArmorProfile", {"type": "Unconfined"}),
        ("securityContext.windowsOptions", {"hostProcess": True}),
        ("containers.0.ports", [{"containerPort": 80, "hostPort": 80}]),
        ("containers.0.securityContext.privileged", True), ("containers.0.securityContext.procMount", "Unmasked"),
        ("containers.0.securityContext.allowPrivilegeEscalation", True), ("containers.0.securityContext.runAsUser", 0),
        ("containers.0.securityContext.runAsNonRoot", False), ("containers.0.securityContext.capabilities", {}),
        ("containers.0.securityContext.capabilities.add", ["NET_ADMIN"]),
        ("containers.0.securityContext.seccompProfile", {"type": "Unconfined"}),
    ],
)  # fmt: skip
def test_what_restricted_objects_to(path: str, value: Any) -> None:
    """Each rule of the standard is one that these tests know: a pod that breaks it is not admitted here either."""
    assert violations(_ALLOWED) == []
    spec = copy.deepcopy(_ALLOWED)
    *parents, last = path.split(".")
    place: Any = spec
    for part in parents:
        place = place[int(part)] if part.isdecimal() else place[part]
    place[last] = value
    assert violations(spec)
