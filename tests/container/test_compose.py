"""The compose file for a laptop, container by container as it stands there."""

import importlib
import json
import shutil
from typing import Any

import pytest

from tests.container.machine import ROOT, Machine
from tests.container.pods import Pod
from tests.container.shop import Visitor

_FILE = ROOT / "examples/compose.yaml"
_RULES = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}


async def test_an_edit_on_a_laptop_changes_what_the_app_decides(machine: Machine) -> None:
    """Who follows examples/README.md edits a flag in a file, and the app decides by it: no account and no cluster needed."""
    pytest.importorskip("yaml", reason="run `make test-container`, which installs PyYAML")
    yaml: Any = importlib.import_module("yaml")
    services = yaml.safe_load(_FILE.read_text())["services"]
    flags = shutil.copytree(ROOT / "examples/flags", machine.home / "flags", copy_function=shutil.copyfile)
    with Pod(machine, "laptop", hosts=tuple(services)) as pod, pod.network():
        for name, service in services.items():
            assert _RULES.items() <= service.items(), name
            mounts = {"./flags": str(flags), "datafile": str(pod.volume)}
            mappings = (volume.partition(":") for volume in service["volumes"])
            volumes = [f"--volume={mounts[source]}:{rest}" for source, _, rest in mappings]
            environment = [f"--env={key}={value}" for key, value in service["environment"].items()]
            pod.run(name, service["image"], *service.get("command", ()), options=(*environment, *volumes))
        async with Visitor("local") as visitor:
            await visitor.ready()
            await visitor.sees("Buy")
            file = ROOT / "examples/flags/flags.json"
            text = file.read_text()
            assert '"featureEnabled": false' in text
            edited = json.loads(text.replace('"featureEnabled": false', '"featureEnabled": true'))
            edited["featureFlags"][0]["variables"][0]["defaultValue"] = "Edited"
            (machine.home / "flags/flags.json").write_text(json.dumps(edited))
            await visitor.sees("Edited")
            assert (await visitor.checkout())["new_checkout"] is True
            await visitor.workers(2)
