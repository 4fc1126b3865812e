"""A software bill of materials (CycloneDX 1.6, JSON) of what goes into the sidecar's image, made from its lock: `make sbom`.

The same lock gives the same bytes: there is no time and nothing random in it. Hashes are those of all files that the lock allows
for a component, since which of them is installed depends on the machine.
"""

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
    """One requirement of a lock: where its marker holds, this version, as one of the files with these SHA-256."""

    name: str
    version: str
    marker: str
    sha256: tuple[str, ...]

    @property
    def purl(self) -> str:
        """Its package URL, by which other tools know it."""
        return f"pkg:pypi/{self.name}@{self.version}"


def read(lock: str) -> list[Pinned]:
    """The requirements of a lock, in its order. Raises ValueError where one is not pinned and hashed."""
    pinned = []
    for entry in re.sub(r"\\\n", " ", lock).splitlines():
        if not entry.strip() or entry.lstrip().startswith("#"):
            continue
        requirement, *hashes = re.split(r"\s+--hash=sha256:", entry.strip())
        found = re.fullmatch(r"([\w.-]+)==([\w.!+-]+)(?:\s*;\s*(.+))?", requirement)
        if found is None or not hashes:
            raise ValueError(f"not pinned and hashed: {requirement}")
        pinned.append(Pinned(_normal(found[1]), found[2], found[3] or "", tuple(hashes)))
    return pinned


def direct(project: dict[str, Any]) -> list[str]:
    """The names of what a distribution asks for itself, with its extras."""
    wanted = [
        *project["dependencies"],
        *(one for extra in project.get("optional-dependencies", {}).values() for one in extra),
    ]
    return sorted(_normal(re.split(r"[^\w.-]", one, maxsplit=1)[0]) for one in wanted)


def bill(lock: str, project: dict[str, Any]) -> dict[str, Any]:
    """The bill of a project whose lock this is."""
    pinned = {one.name: one for one in read(lock)}
    root = f"pkg:pypi/{project['name']}@{project['version']}"
    about = {
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
        "metadata": {"component": about | {"licenses": [{"license": {"id": project["license"]}}]}},
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


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Print it."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    json.dump(bill(LOCK.read_text(), project), sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
