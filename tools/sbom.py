"""Write the software bill of materials (CycloneDX 1.6, JSON) of the sidecar's image from its lock: `make sbom`.

The same lock gives the same bytes: the output contains no time and nothing random. A component has the hashes of all files that
the lock allows for it, because which of them is installed depends on the machine.
"""

import itertools
import json
import re
import sys
import tomllib
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements/sidecar.txt"
PROJECT = ROOT / "sidecar/pyproject.toml"


@dataclass(frozen=True, slots=True)
class Pinned:
    """One requirement of a lock. It applies where `marker` holds; `sha256` are the digests of the allowed files."""

    name: str
    version: str
    marker: str
    sha256: tuple[str, ...]

    @property
    def purl(self) -> str:
        """The package URL, which identifies it for other tools."""
        return f"pkg:pypi/{self.name}@{self.version}"


def read(lock: str) -> list[Pinned]:
    """Read the requirements of a lock, in its order. Raises ValueError if one is not pinned and hashed."""
    pinned = []
    for entry in re.sub(r"\\\n", " ", lock).splitlines():
        if not entry.strip() or entry.lstrip().startswith("#"):
            continue
        requirement, *hashes = re.split(r"\s+--hash=sha256:", entry.strip())
        match = re.fullmatch(r"([\w.-]+)==([\w.!+-]+)(?:\s*;\s*(.+))?", requirement)
        if match is None or not hashes:
            raise ValueError(f"not pinned and hashed: {requirement}")
        pinned.append(Pinned(_normalized(match[1]), match[2], match[3] or "", tuple(hashes)))
    return pinned


def direct(project: dict[str, Any]) -> list[str]:
    """Return the names of a distribution's direct dependencies, including those of its extras."""
    extras = project.get("optional-dependencies", {}).values()
    requirements = itertools.chain(project["dependencies"], *extras)
    return sorted(_normalized(re.split(r"[^\w.-]", one, maxsplit=1)[0]) for one in requirements)


def bill(lock: str, project: dict[str, Any]) -> dict[str, Any]:
    """Build the bill of materials of a project from its lock."""
    pinned = {one.name: one for one in read(lock)}
    root = f"pkg:pypi/{project['name']}@{project['version']}"
    component = {
        "type": "application",
        "bom-ref": root,
        "name": project["name"],
        "version": project["version"],
        "purl": root,
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, root + lock)}",
        "version": 1,
        "metadata": {"component": component | {"licenses": [{"license": {"id": project["license"]}}]}},
        "components": [_component(one) for one in pinned.values()],
        "dependencies": [{"ref": root, "dependsOn": [pinned[name].purl for name in direct(project)]}],
    }


def _component(one: Pinned) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": one.purl,
        "name": one.name,
        "version": one.version,
        "purl": one.purl,
        "hashes": [{"alg": "SHA-256", "content": digest} for digest in one.sha256],
    }
    if one.marker:
        component["properties"] = [{"name": "python:marker", "value": one.marker}]
    return component


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Print the bill of materials of the sidecar."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    json.dump(bill(LOCK.read_text(), project), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
