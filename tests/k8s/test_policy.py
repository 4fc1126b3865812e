"""The admission policies as files: their expressions, their golden pods, their settings, their versions."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.k8s import cel
from tests.k8s.admission import DERIVED, PolicyError, Server, derived, golden_pods, plain_pod, replaced
from tests.k8s.kustomize import INJECT, K8S, WORKLOADS, Object, objects, rendered

_SERVER = re.compile(r"# Kubernetes v1\.\d+\.\d+")


@pytest.fixture(scope="module")
def server() -> Server:
    """The policies as they are applied."""
    return Server()


def _expressions() -> Iterator[tuple[str, str]]:
    for policy in (found for found in Server().installed if "Binding" not in found["kind"]):
        spec = policy["spec"]
        where = f"{policy['kind']} {policy['metadata']['name']}"
        for one in (*spec.get("matchConditions", ()), *spec["variables"], *spec.get("validations", ())):
            yield where, one["expression"]
            if "messageExpression" in one:
                yield where, one["messageExpression"]
        yield from ((where, one["jsonPatch"]["expression"]) for one in spec.get("mutations", ()))


class TestExpressions:
    def test_they_are_cel(self) -> None:
        """Google's CEL parses every expression as it stands in the file."""
        found = list(_expressions())
        assert len(found) > 25
        for where, expression in found:
            try:
                cel.parse(expression)
            except RuntimeError as error:
                raise AssertionError(f"{where}: {error}") from error

    @pytest.mark.parametrize("broken", ["object.spec.(containers)", "[1, 2", "a ? b", "'x", "object..spec"])
    def test_a_fault_is_found(self, broken: str) -> None:
        """An expression that a server would refuse to compile is refused here, too."""
        with pytest.raises(RuntimeError, match="ERROR"):
            cel.parse(broken)

    def test_nothing_hangs_on_a_map_or_a_parameter(self, server: Server) -> None:
        """Two pods of one ReplicaSet are alike, and an applied change of the settings counts at once."""
        for policy in (found for found in server.installed if "Binding" not in found["kind"]):
            assert "paramKind" not in policy["spec"]
        sidecars = (server.admit(plain_pod()).object["spec"]["initContainers"][0] for _ in range(20))
        assert len({tuple(entry["name"] for entry in sidecar["env"]) for sidecar in sidecars}) == 1

    def test_a_broken_policy_stops_only_what_asks(self, server: Server) -> None:
        """A fault in the policy refuses pods that asked for the sidecar, and no other; one in the warnings refuses nothing."""
        broken = Server(replaced(server.installed, "variables.named.size()", "variables.nope.size()"))
        assert broken.admit(plain_pod(labels={})).refusals == []
        with pytest.raises(PolicyError, match="nope"):
            broken.admit(plain_pod())
        policies = [found for found in server.installed if "Binding" not in found["kind"]]
        assert {
            f"{found['kind']} {found['metadata']['name']}": found["spec"]["failurePolicy"] for found in policies
        } == {
            "MutatingAdmissionPolicy datafile-sidecar": "Fail",
            "ValidatingAdmissionPolicy datafile-sidecar": "Fail",
            "ValidatingAdmissionPolicy datafile-sidecar-workloads": "Ignore",
        }


class TestGoldenPods:
    @pytest.mark.parametrize("paths", list(golden_pods()), ids=lambda paths: paths[0].name)
    def test_after(self, paths: tuple[Path, Path]) -> None:
        """A change of the policy shows in the review as what it does to a pod: `python -m tests.k8s.admission --write`."""
        before, after = paths
        first = after.read_text().partition("\n")[0]
        assert first == DERIVED or _SERVER.fullmatch(first), "say which server made it, or that it is derived"
        if first == DERIVED:
            assert after.read_text() == derived(before)

    @pytest.mark.parametrize("version", ["1.34", "1.35", "1.36", "1.37"])
    def test_a_server_would_store_them(self, version: str) -> None:
        """What the policy makes is a valid pod, without an unknown field, on each server that has such policies."""
        validate: Any = importlib.import_module("kubernetes_validate").validate
        found = list(golden_pods())
        assert len(found) >= 3
        for _, after in found:
            (pod,) = objects(after.read_text())
            validate(pod, version, strict=True)


def test_the_settings_are_changed_as_the_readme_says(server: Server) -> None:
    """Whoever copies the README's patch gets their image, a bus, no secret and no peers, and nothing of what was before."""
    changed = Server(objects(rendered(WORKLOADS / "policy-changed")))
    admission = changed.admit(plain_pod())
    assert not admission.refusals
    assert [volume["name"] for volume in admission.object["spec"]["volumes"]] == ["datafile"]
    sidecar = admission.object["spec"]["initContainers"][0]
    assert sidecar["image"] == "registry.internal/datafile-sidecar:0.1.0"
    environment = {entry["name"]: entry for entry in sidecar["env"]}
    assert [*environment] == ["DATAFILE_SDK_KEYS", "DATAFILE_DIR", "DATAFILE_LOG_LEVEL", "DATAFILE_BUS_URL"]
    assert environment["DATAFILE_BUS_URL"]["valueFrom"] == {"secretKeyRef": {"name": "datafile-bus", "key": "url"}}
    assert [mount["name"] for mount in sidecar["volumeMounts"]] == ["datafile"]
    assert sidecar["resources"]["limits"] == {"memory": "144Mi"}
    assert len(changed.installed) == len(server.installed)


def test_a_canary(server: Server) -> None:
    """A new version beside the old one: only the namespaces with its label get it, once, and nobody is warned."""
    both = Server(server.installed + objects(rendered(WORKLOADS / "policy-canary")))
    images = {
        label: [
            one["image"] for one in both.admit(plain_pod(labels={}), {INJECT: label}).object["spec"]["initContainers"]
        ]
        for label in ("true", "canary")
    }
    assert images == {
        "true": ["registry.example.com/datafile-sidecar:0.1.0"],
        "canary": ["registry.internal/datafile-sidecar:0.2.0"],
    }
    refusals = both.admit(plain_pod(labels={}, annotations={}), {INJECT: "canary"}).refusals
    assert "is missing or empty" in refusals[0]
    (deployment,) = (
        one for one in objects(rendered(WORKLOADS / "kinds")) if one["metadata"]["name"] == "with-deployment"
    )
    assert both.admit(deployment, {INJECT: "canary"}).warnings == []


def test_the_older_version_is_the_same(server: Server) -> None:
    """Servers of 1.34 and 1.35 get the same policies, in the version that those know."""
    older = objects(rendered(K8S / "policy-v1beta1"))
    assert {found["apiVersion"] for found in older if found["kind"].startswith("Mutating")} == {
        "admissionregistration.k8s.io/v1beta1"
    }
    for found in older:
        found["apiVersion"] = "admissionregistration.k8s.io/v1"
    assert sorted(older, key=_named) == sorted(server.installed, key=_named)


def _named(found: Object) -> str:
    return f"{found['kind']} {found['metadata']['name']}"
