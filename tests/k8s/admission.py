"""What the API server makes of a pod by the policies in k8s/policy: bindings, conditions, mutations, refusals and warnings.

It stands in for a server, which no test has. `python -m tests.k8s.admission --write` makes the golden pods anew.
"""

import copy
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.k8s import cel
from tests.k8s.kustomize import INJECT, K8S, Object, objects, rendered, to_yaml

PODS = Path(__file__).parent / "pods"
DERIVED = "# Derived: tests/k8s/admission.py evaluated the policy. No server made this."
"""The first line of a golden pod. One from a server says `# Kubernetes v1.36.2` instead, and is not written by this module."""
SDK_KEYS = {"datafile-sidecar/sdk-keys": "your-sdk-key"}
_RESOURCES = {kind: f"{kind.lower()}s" for kind in ("Pod", "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")}


class PolicyError(Exception):
    """A policy can't be evaluated, or makes what a server would not take. With `failurePolicy: Fail` the pod is refused."""


@dataclass(frozen=True)
class Admission:
    """The answer: the object as it would be stored, and the words of refusals and warnings."""

    object: Object
    refusals: list[str]
    warnings: list[str]


@dataclass
class Server:
    """The policies and bindings that a server has; by default those of k8s/policy."""

    installed: list[Object] = field(default_factory=lambda: objects(rendered(K8S / "policy")))

    def admit(self, asked: Object, namespace_labels: Mapping[str, str] | None = None) -> Admission:
        """Return what becomes of an object in a namespace with these labels. Raises PolicyError."""
        namespace = {"metadata": {"name": "shop", "labels": dict(namespace_labels or {})}}
        admitted = copy.deepcopy(asked)
        for policy, _ in self._matching("MutatingAdmissionPolicy", admitted, namespace):
            for mutation in policy["spec"]["mutations"]:
                _patch(admitted, _evaluated(policy, mutation["jsonPatch"]["expression"], admitted, namespace))
        words: dict[str, list[str]] = {"Deny": [], "Warn": []}
        for policy, binding in self._matching("ValidatingAdmissionPolicy", admitted, namespace):
            (action,) = binding["spec"]["validationActions"]
            words[action] += _refusals(policy, admitted, namespace)
        return Admission(admitted, _unique(words["Deny"]), _unique(words["Warn"]))

    def _matching(self, kind: str, asked: Object, namespace: Object) -> Iterator[tuple[Object, Object]]:
        policies = {one["metadata"]["name"]: one for one in self.installed if one["kind"] == kind}
        for binding in (one for one in self.installed if one["kind"] == f"{kind}Binding"):
            policy = policies[binding["spec"]["policyName"]]
            if not _takes(policy, asked) or not _selects(binding, asked, namespace):
                continue
            conditions = policy["spec"].get("matchConditions", ())
            # A server offers `object` to these, and not `variables`.
            if all(cel.evaluate(one["expression"], {"object": asked}) for one in conditions):
                yield policy, binding


def plain_pod(spec: Object | None = None, **metadata: Any) -> Object:
    """A pod that asks for the sidecar, with this metadata and this in its spec."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "e", "labels": {INJECT: "true"}, "annotations": SDK_KEYS, **metadata},
        "spec": {"restartPolicy": "Always", "containers": [{"name": "web", "image": "theirs"}], **(spec or {})},
    }


def pod_of(workload: Object, **labels: str) -> Object:
    """The pod that a controller makes of a workload, with defaults that matter here and more labels."""
    spec = workload["spec"]
    template = copy.deepcopy(spec.get("jobTemplate", {}).get("spec", spec)["template"])
    template["spec"].setdefault("restartPolicy", "Always")
    metadata = {"name": workload["metadata"]["name"], **template.get("metadata", {})}
    metadata["labels"] = {**metadata.get("labels", {}), **labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def golden_pods() -> Iterator[tuple[Path, Path]]:
    """Each golden pod: the file before, and the file after."""
    for before in sorted(PODS.glob("*.before.yaml")):
        yield before, before.with_name(before.name.replace(".before.", ".after."))


def derived(before: Path) -> str:
    """The text of the file after. Raises PolicyError; AssertionError where the pod is refused."""
    (pod,) = objects(before.read_text())
    admission = Server().admit(pod)
    assert not admission.refusals, f"{before.name}: {admission.refusals}"
    return f"{DERIVED}\n{to_yaml(admission.object)}"


def replaced(found: Any, written: str, instead: str) -> Any:
    """The same objects, with one text replaced by another wherever it stands."""
    if isinstance(found, dict):
        return {name: replaced(value, written, instead) for name, value in found.items()}
    if isinstance(found, list):
        return [replaced(value, written, instead) for value in found]
    return found.replace(written, instead) if isinstance(found, str) else found


def _takes(policy: Object, asked: Object) -> bool:
    rules = policy["spec"]["matchConstraints"]["resourceRules"]
    return any(_RESOURCES[asked["kind"]] in rule["resources"] for rule in rules)


def _selects(binding: Object, asked: Object, namespace: Object) -> bool:
    match = binding["spec"].get("matchResources", {})
    return all(
        _fits(match.get(f"{name}Selector", {}), one["metadata"].get("labels", {}))
        for name, one in (("object", asked), ("namespace", namespace))
    )


def _fits(selector: Object, labels: Mapping[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for one in selector.get("matchExpressions", ()):
        assert one["operator"] == "NotIn"
        if labels.get(one["key"]) in one["values"]:
            return False
    return True


def _evaluated(policy: Object, expression: str, asked: Object, namespace: Object) -> Any:
    names: dict[str, Any] = {"object": asked, "namespaceObject": namespace, "variables": {}}
    try:
        for variable in policy["spec"].get("variables", ()):
            names["variables"][variable["name"]] = cel.evaluate(variable["expression"], names)
        return cel.evaluate(expression, names)
    except (RuntimeError, ValueError) as error:
        raise PolicyError(f"{policy['kind']} {policy['metadata']['name']}: {error}") from error


def _refusals(policy: Object, asked: Object, namespace: Object) -> Iterator[str]:
    for one in policy["spec"]["validations"]:
        if not _evaluated(policy, one["expression"], asked, namespace):
            words = one.get("message") or _evaluated(policy, one["messageExpression"], asked, namespace)
            assert "\n" not in words
            yield words


def _patch(target: Object, operations: Iterable[Mapping[str, Any]]) -> None:
    """Apply a JSON patch as a server does. It knows `add` alone, because the policy uses nothing else."""
    for one in operations:
        if one.keys() != {"op", "path", "value"} or one["op"] != "add":
            raise PolicyError(f"not an operation of this policy: {one}")
        if isinstance(one["value"], list) and one["value"]:
            raise PolicyError(f"{one['path']}: a server panics at a list of objects as a value")
        *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in one["path"].split("/")[1:])
        place: Any = target
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        value = copy.deepcopy(one["value"])
        if isinstance(place, list):
            place.insert(len(place) if last == "-" else int(last), value)
        else:
            place[last] = value


def _unique(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(f"usage: python -m tests.k8s.admission --write\n\n{__doc__}")
    for before_, after_ in golden_pods():
        if not after_.exists() or after_.read_text().startswith(DERIVED):
            after_.write_text(derived(before_))
