"""What is in the image, and what is not."""

import json
import tomllib

from tests.container.machine import BASE, ROOT, SIDECAR, Machine, in_parallel
from tests.container.pods import Pod, wait_for

_ASK = """
import importlib.util, json, os, shutil
tools = ("pip", "pip3", "gcc", "cc", "make")
writable = [path for path in ("/", "/opt/datafile-sidecar", "/tmp", "/var/run/datafile") if os.access(path, os.W_OK)]
folders = [os.path.join(root, name) for top in ("/usr", "/opt") for root, names, _ in os.walk(top) for name in names]
print(json.dumps({
    "installers": [folder for folder in folders if folder.endswith(("/pip", "/ensurepip"))],
    "ids": [os.getuid(), os.getgid()],
    "tools": [tool for tool in tools if shutil.which(tool)],
    "modules": [name for name in ("pip", "hatchling", "optimizely", "redis") if importlib.util.find_spec(name)],
    "writable": writable,
}))
"""


def test_the_image_says_what_it_is_and_runs_the_sidecar_without_a_shell(machine: Machine) -> None:
    """Who inspects the image finds its version and licence, an unprivileged numeric user, and a command in exec form."""
    config = machine.inspect(f"localhost/{SIDECAR}")["Config"]
    version = tomllib.loads((ROOT / "sidecar/pyproject.toml").read_text())["project"]["version"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == version
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert (config["User"], config["Entrypoint"], config["Cmd"]) == ("65532:65532", ["datafile-sidecar"], ["run"])
    assert "Healthcheck" not in config


def test_the_image_holds_no_installer_and_little_of_its_own(machine: Machine, measured: dict[str, str]) -> None:
    """An intruder finds neither pip nor a compiler nor a place to write, and a node pulls few bytes beyond the base."""
    with Pod(machine, "inside") as pod:
        pod.run("python", SIDECAR, "-c", _ASK, options=("--entrypoint=python",))
        wait_for(lambda: pod.logs("python"), "an answer from inside")
        (inside,) = pod.logs("python")
    assert inside == {"ids": [65532, 65532], "installers": [], "tools": [], "modules": ["redis"], "writable": []}
    sizes = {name: machine.inspect(f"localhost/{name}")["Size"] / 1e6 for name in (BASE, SIDECAR)}
    measured["image, MB, and its base"] = f"{sizes[SIDECAR]:.1f}, {sizes[BASE]:.1f}"
    assert sizes[SIDECAR] - sizes[BASE] < 30


def test_the_same_sources_give_the_same_image(machine: Machine) -> None:
    """Who builds the image again from the same commit and base gets the same layers, and can so check ours."""
    builds = [f"{SIDECAR}-again-{number}" for number in range(2)]
    in_parallel(*(lambda name=name: machine.build(name, "Dockerfile") for name in builds))
    layers = [json.dumps(machine.inspect(f"localhost/{name}")["RootFS"]["Layers"]) for name in builds]
    assert layers[0] == layers[1]
