"""What comes with the product from others: it is listed, pinned, and each part has a reason."""

import json
import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest

from tests.contract.generated import DECISIONS, ROOT
from tools import sbom


def project(distribution: str) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / distribution / "pyproject.toml").read_text())["project"]
    return project


@pytest.mark.parametrize("distribution", ["sidecar", "client"])
def test_every_dependency_has_a_reason(distribution: str) -> None:
    """Whoever audits the product finds for each direct dependency a decision whose facts or decision speak of it, by its name."""
    records = [path.read_text() for path in DECISIONS.glob("[0-9]*depends-on*.md")] + [
        (DECISIONS / "0009-aiohttp-msgspec-prometheus-client-structlog.md").read_text()
    ]
    text = "\n".join(records).replace("_", "-")
    names = sbom.direct(project(distribution))
    assert len(names) > 1
    for name in names:
        assert re.search(rf"(?<![\w-]){name}(?![\w-])", text), f"no decision says why {name} is needed"


def test_the_bill_of_materials_is_the_lock() -> None:
    """`make sbom` lists all that the image may hold, with versions and hashes, and gives the same bytes each time."""
    command = [sys.executable, "-m", "tools.sbom"]
    first, second = (subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout for _ in range(2))
    assert first == second
    bill = json.loads(first)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bill["serialNumber"])
    lock = (ROOT / "requirements/sidecar.txt").read_text()
    listed = {f"{one['name']}=={one['version']}" for one in bill["components"]}
    assert listed == set(re.findall(r"^[\w.-]+==[\w.!+-]+", lock, re.MULTILINE))
    hashes = [digest["content"] for one in bill["components"] for digest in one["hashes"]]
    assert sorted(hashes) == sorted(re.findall(r"sha256:([0-9a-f]{64})", lock))
    references = {one["bom-ref"] for one in bill["components"]}
    assert {ref for one in bill["dependencies"] for ref in one["dependsOn"]} <= references
    assert any("redis@" in reference for reference in references)


@pytest.mark.parametrize("line", ["aiohttp>=3", "aiohttp==3.14.5", "git+https://example.test/x", "-e ./sidecar"])
def test_what_is_not_pinned_is_found(line: str) -> None:
    """No bill claims to know what it does not: an entry without version or hash is an error that names it."""
    with pytest.raises(ValueError, match="not pinned and hashed"):
        sbom.read(line)
