"""Buildah and podman with an image store of their own, and the images of this project in it. Needs root and Debian's packages."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
BASE, SIDECAR, APP = "python-stand-in", "datafile-sidecar", "datafile-example-app"
TOOLS = ("buildah", "podman", "runc", "mmdebstrap")
_SUITE = "trixie"
_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_KEPT = ROOT / "build" / f"{BASE}-{_SUITE}.tar"
_PATIENCE_S = 280

_CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=4096:8192", "nproc=4096:4096"]
"""
_STORAGE_CONF = """\
[storage]
driver = "overlay"
graphroot = "{home}/store"
runroot = "{home}/run"
"""


class Machine:
    """A context manager: the store, the builds and whatever runs end with it. Nobody else's containers are seen or touched."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "containers.conf").write_text(_CONTAINERS_CONF)
        (home / "storage.conf").write_text(_STORAGE_CONF.format(home=home))
        self._environment = dict(
            os.environ,
            CONTAINERS_CONF=str(home / "containers.conf"),
            CONTAINERS_STORAGE_CONF=str(home / "storage.conf"),
            TMPDIR=str(home),
        )
        # As options, for podman hands them on to the process that notices the end of a container; its environment it does not.
        folders = {"root": "store", "runroot": "run", "tmpdir": "tmp", "network-config-dir": "networks"}
        self._podman = (
            *("podman", "--storage-driver=overlay", "--events-backend=file"),
            *("--runtime=runc", "--cgroup-manager=cgroupfs"),
            *(f"--{option}={home / folder}" for option, folder in folders.items()),
        )

    def podman(self, *arguments: str, check: bool = True) -> str:
        """What podman prints. Raises CommandError with what it says when it fails, unless `check` is false."""
        return self._run(*self._podman, *arguments, check=check)

    def printed(self, pod: str) -> str:
        """The last lines that each container of a pod has printed, on either stream."""
        command = (*self._podman, "pod", "logs", "--names", "--tail=40", pod)
        done = subprocess.run(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
        )
        return done.stdout

    def inspect(self, name: str) -> dict[str, Any]:
        """All that podman knows of a container or, with its name, an image."""
        details: dict[str, Any] = json.loads(self.podman("inspect", name))[0]
        return details

    def build(self, name: str, dockerfile: str) -> None:
        """Build one of the project's images on the stand-in, as a user would with `docker build` from the project's folder."""
        self._run(
            *("buildah", "bud", "--quiet", "--isolation=chroot", "--timestamp=0", "--pull-never", "--layers=false"),
            *(f"--build-arg=PYTHON_IMAGE=localhost/{BASE}", *_pip_options(), f"--tag={name}"),
            *(f"--file={ROOT / dockerfile}", str(ROOT)),
        )

    def import_base(self) -> None:
        """A stand-in for `python:3.13-slim`: the same Debian with Debian's own Python. It is made once and kept in build/."""
        if not _KEPT.exists():
            _KEPT.parent.mkdir(exist_ok=True)
            made = self.home / "base.tar"
            self._run("mmdebstrap", *_debootstrap_options(), _SUITE, str(made), *_mirrors())
            shutil.move(made, _KEPT)
        self.podman("import", "--quiet", str(_KEPT), BASE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.podman("pod", "rm", "--all", "--force", "--time=0", check=False)
        self.podman("rm", "--all", "--force", "--time=0", check=False)
        self.podman("rmi", "--all", "--force", check=False)

    def _run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=_PATIENCE_S)
        if check and done.returncode:
            arguments = [word for word in command if not word.startswith("--")]
            raise CommandError(f"{' '.join(arguments[:3])} … ended with {done.returncode}:\n{done.stderr[-4000:]}")
        return done.stdout.strip()


class CommandError(Exception):
    """A tool failed; its text says which and why."""


def missing_tools() -> str:
    """What this machine lacks for these tests; empty when it has all."""
    if os.geteuid() != 0:
        return "containers are started as root here: run `make test-container` as root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"{', '.join(missing)} missing: run `make container-packages`" if missing else ""


def in_parallel(*works: Any) -> None:
    """Call each in a thread of its own; raises what the first of them that failed raised."""
    errors: list[BaseException] = []

    def run(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _debootstrap_options() -> Sequence[str]:
    links = "ln -s /usr/bin/python3 $1/usr/local/bin/python3 && ln -s python3 $1/usr/local/bin/python"
    return (
        "--variant=minbase",
        "--include=python3,python3-pip,ca-certificates",
        *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "info", "locale", "man")),
        f"--customize-hook={links}",
        "--customize-hook=rm $1/usr/lib/python3*/EXTERNALLY-MANAGED",
        *(f"--aptopt={option}" for option in _says("apt-config", "dump", "Acquire") if "Proxy" in option),
    )


def _mirrors() -> Sequence[str]:
    """Where this machine's own apt gets Debian from."""
    asked = ("apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)", "Created-By: Packages")
    matches = (re.fullmatch("Debian Debian (.+)", line) for line in _says(*asked))
    return [match[1] for match in matches if match][:1]


def _says(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()


def _pip_options() -> list[str]:
    """What pip needs to know of this machine while it builds: which index to ask, and which hosts to trust."""
    options = dict(line.split("=", 1) for line in _says(sys.executable, "-m", "pip", "config", "list") if "=" in line)
    urls = [value.strip("'") for name, value in options.items() if name.endswith(".index-url")]
    trusted = [f"--volume={_CA_BUNDLE}:{_CA_BUNDLE}:ro"] if _CA_BUNDLE.exists() else []
    return [f"--build-arg=PIP_INDEX_URL={url}" for url in urls[-1:]] + trusted
