"""Every kustomization renders to what is kept in golden/, and to what every supported Kubernetes takes."""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.k8s.kustomize import (
    FOLDERS,
    GOLDEN,
    K8S,
    README,
    WORKLOADS,
    Object,
    all_objects,
    diff,
    objects,
    rendered,
    shown_diff,
)

_VERSIONS = tuple(f"1.{minor}" for minor in range(29, 38))
_FOREIGN = {"PodMonitor", "HTTPRoute"}
"""Kinds that Kubernetes itself does not know."""
_SINCE = {
    ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy"): 30,
    ("admissionregistration.k8s.io/v1beta1", "MutatingAdmissionPolicy"): 34,
    ("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy"): 36,
}
"""The first minor version that has a kind; for all others, the oldest one that is supported."""


@pytest.mark.parametrize("name", FOLDERS)
def test_it_renders_to_what_is_kept(name: str) -> None:
    """A change of the manifests shows in the review as what it does to a cluster: `python -m tests.k8s.kustomize --write`."""
    assert rendered(FOLDERS[name]) == (GOLDEN / f"{name}.yaml").read_text()


def test_nothing_else_is_kept() -> None:
    """No file in golden/ is left over from a kustomization that is gone, and every example is there."""
    assert {path.stem for path in GOLDEN.iterdir()} == set(FOLDERS)
    assert {path.parent for path in K8S.glob("*/*/kustomization.yaml")} == {
        *K8S.glob("components/*"),
        *K8S.glob("examples/*"),
    }


def test_the_readme_shows_what_changes() -> None:
    """Who thinks about adding the sidecar sees beforehand what it does to a Deployment of theirs."""
    assert shown_diff() == diff()


@pytest.mark.parametrize("name", ["changed", "policy-image", "policy-changed", "policy-canary", "fleet-changed"])
def test_pages_show_what_works(name: str) -> None:
    """What people copy from our pages is rendered and checked here, but for the place from which it takes ours."""
    block = re.search(rf"^( *)<!-- {name} -->\n *```yaml\n(.*?)^ *```$", _pages(), re.DOTALL | re.MULTILINE)
    assert block
    shown = re.sub(rf"^{block[1]}", "", block[2], flags=re.MULTILINE)
    kept = (WORKLOADS / name / "kustomization.yaml").read_text()
    assert _without_place(kept).endswith(_without_place(shown))


def _without_place(text: str) -> str:
    return re.sub(r"^  - \S*/k8s/(policy|fleet)(\?ref=\S+)?$", "  - k8s", text, flags=re.MULTILINE)


def _pages() -> str:
    return README.read_text() + (K8S.parent / "docs/many-services.md").read_text()


@pytest.mark.parametrize("version", _VERSIONS)
def test_kubernetes_takes_it(version: str) -> None:
    """Every object is valid, without an unknown field, on each version that has native sidecars and knows the kind."""
    validate: Any = importlib.import_module("kubernetes_validate").validate
    checked = set()
    for name, found in _objects():
        if int(version.partition(".")[2]) < _SINCE.get(
            (found["apiVersion"], found["kind"].removesuffix("Binding")), 29
        ):
            continue
        checked.add(found["kind"])
        try:
            validate(found, version, strict=True)
        except Exception as error:
            raise AssertionError(f"{found['kind']} in {name}: {error}") from error
    assert checked >= {
        "Deployment",
        "StatefulSet",
        "DaemonSet",
        "Job",
        "CronJob",
        "Service",
        "Ingress",
        "NetworkPolicy",
    }
    assert ("MutatingAdmissionPolicy" in checked) == (version >= "1.34")


@pytest.mark.parametrize("folder", ["base/secret.example.yaml", "components/networkpolicy/egress.yaml"])
def test_kubernetes_takes_what_is_to_be_copied(folder: str) -> None:
    """What stands in no kustomization, because it is to be changed first, is valid too."""
    validate: Any = importlib.import_module("kubernetes_validate").validate
    for found in objects((K8S / folder).read_text()):
        validate(found, _VERSIONS[0], strict=True)


def _objects() -> Iterator[tuple[str, Object]]:
    return ((name, found) for name, found in all_objects() if found["kind"] not in _FOREIGN)


def test_the_cronjob_patches_differ_in_depth_alone() -> None:
    """A CronJob gets exactly what a Deployment gets."""
    for component in ("sidecar", "strict", "lenient", "bus", "no-webhook"):
        folder = K8S / "components" / component
        (workload,), (cronjob,) = (objects((folder / f"{name}.yaml").read_text()) for name in ("workload", "cronjob"))
        assert workload["spec"]["template"] == cronjob["spec"]["jobTemplate"]["spec"]["template"]


def test_a_workload_without_the_label_stays_as_it_is() -> None:
    """Whoever does not ask for the sidecar gets nothing of it, not even in the same kustomization."""
    before, after = (
        {found["metadata"]["name"]: found for found in objects(rendered(folder))}
        for folder in (FOLDERS["all-kinds"].parent / "kinds", FOLDERS["all-kinds"])
    )
    without = [name for name in before if name.startswith("without")]
    assert len(without) == 2
    assert [after[name] for name in without] == [before[name] for name in without]


def test_yaml_and_dockerfiles_are_clean() -> None:
    """Our YAML and Dockerfiles pass the linters of their trade."""
    rules = (
        "{extends: default, rules: {line-length: {max: 132}, document-start: disable, braces: {max-spaces-inside: 1}}}"
    )
    folders = (
        *(f"k8s/{name}" for name in ("base", "components", "examples", "policy", "policy-v1beta1", "fleet", "try")),
        "tests/k8s/workloads",
        "examples",
    )
    for tool, *arguments in (
        ("yamllint", "--strict", "-d", rules, *folders),
        ("hadolint", "Dockerfile", "examples/app/Dockerfile"),
    ):
        command = (str(Path(sys.prefix, "bin", tool)), *arguments)
        done = subprocess.run(command, cwd=K8S.parent, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
