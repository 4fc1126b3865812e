"""A pod as Kubernetes makes one, by podman: containers on one loopback network, with one directory in memory between them."""

import ctypes
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.container.machine import APP, BASE, SIDECAR, Machine

KEY, SECRET = "KEY1", "test-secret-1"
UPSTREAM_PORT = 9000
WEBHOOK_URL = "http://127.0.0.1:8089/webhooks/optimizely"
ADMIN_URL = "http://127.0.0.1:8088"
APP_URL = "http://127.0.0.1:8000"
MOUNT = "/var/run/datafile"
_SECRETS_MOUNT = "/etc/datafile-sidecar/webhook-secrets"
_RESTRICTED = ("--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges")
_CLONE_NEWNET = 0x40000000
_PATIENCE_S = 20
_T = TypeVar("_T")


class Pod:
    """A context manager: a pod without network, and its volume, a tmpfs of so many MiB. It ends all of it, by name.

    `hosts` are names that lead to the pod itself.
    """

    def __init__(self, machine: Machine, name: str, volume_mib: float = 24, hosts: tuple[str, ...] = ()) -> None:
        self.name = name
        self.volume = machine.home / name / "volume"
        self.datafile = self.volume / f"{KEY}.json"
        self._machine = machine
        self._size = int(volume_mib * 1024)
        self._hosts = hosts

    def sidecar(self, *options: str, **settings: object) -> None:
        """Start the sidecar as the manifests do; keywords are settings, as in `poll_interval_s=1`."""
        secrets = self.volume.parent / "secrets"
        secrets.mkdir(exist_ok=True)
        (secrets / "current").write_text(SECRET)
        template = f"http://127.0.0.1:{UPSTREAM_PORT}/datafiles/{{sdk_key}}.json"
        settings = {"sdk_keys": KEY, "webhook_secrets_path": _SECRETS_MOUNT, "url_template": template, **settings}
        environment = [f"--env=DATAFILE_{name.upper()}={value}" for name, value in settings.items()]
        volumes = (f"--volume={self.volume}:{MOUNT}", f"--volume={secrets}:{_SECRETS_MOUNT}:ro")
        self.run("sidecar", SIDECAR, options=("--memory=128m", "--memory-swap=128m", *environment, *volumes, *options))

    def app(self) -> None:
        """Start the example app beside it, with the volume read-only and a user of its own."""
        options = (
            f"--volume={self.volume}:{MOUNT}:ro",
            f"--env=DATAFILE_SDK_KEYS={KEY}",
            f"--env=DATAFILE_DIR={MOUNT}",
        )
        self.run("app", APP, options=options)

    def run(self, name: str, image: str, *command: str, options: tuple[str, ...] = ()) -> None:
        """Start one more container under the rules of the `restricted` standard."""
        hosts = self.volume.parent / "hosts"
        hosts.write_text("".join(f"127.0.0.1 {host}\n" for host in ("localhost", *self._hosts)))
        self._machine.podman(
            *("run", "--detach", f"--pod={self.name}", f"--name={self.name}-{name}", *_RESTRICTED, *options),
            f"--volume={hosts}:/etc/hosts:ro",
            *(image, *command),
        )

    def signal(self, name: str, number: str) -> float:
        """Send a signal to a container's first process; how many seconds later it is gone. Raises TimeoutError."""
        pid = self.pid(name)
        sent = time.monotonic()
        self._machine.podman("kill", f"--signal={number}", f"{self.name}-{name}")
        wait_for(lambda: not _runs(pid), f"{name} to end")
        return time.monotonic() - sent

    def start(self, name: str) -> None:
        """Start a container that has ended, as the kubelet does."""
        self._machine.podman("start", f"{self.name}-{name}")

    def state(self, name: str) -> dict[str, Any]:
        """What podman knows of a container: `Status`, `ExitCode`, `OOMKilled` and more."""
        state: dict[str, Any] = self._machine.inspect(f"{self.name}-{name}")["State"]
        return state

    def pid(self, name: str) -> int:
        """The id, on this machine, of a container's first process."""
        return int(self.state(name)["Pid"])

    def command(self, name: str, *command: str) -> tuple[int, str]:
        """Run a command in a container, as `kubectl exec` does: its exit status, and what it printed on either stream."""
        script = "import subprocess, sys; print(subprocess.run(sys.argv[1:], stderr=subprocess.STDOUT).returncode)"
        printed = self._machine.podman("exec", f"{self.name}-{name}", "python", "-c", script, *command)
        text, _, status = printed.rpartition("\n")
        return int(status), text

    def logs(self, name: str) -> list[dict[str, Any]]:
        """The lines of JSON that a container has printed."""
        printed = self._machine.podman("logs", f"{self.name}-{name}").splitlines()
        return [json.loads(line) for line in printed if line.startswith("{")]

    @contextmanager
    def network(self) -> Iterator[None]:
        """Let this thread open its sockets inside the pod: 127.0.0.1 is then the pod's own."""
        with open("/proc/self/ns/net") as home, open(f"/proc/{self._infra_pid}/ns/net") as pod:
            _enter(pod.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def __enter__(self) -> Self:
        self.volume.mkdir(parents=True)
        subprocess.run(
            ("mount", "-t", "tmpfs", "-o", f"mode=0777,size={self._size}k", "tmpfs", self.volume), check=True
        )
        infra = (f"--infra-image=localhost/{BASE}", "--infra-command=sleep infinity", f"--infra-name={self.name}-infra")
        self._machine.podman("pod", "create", f"--name={self.name}", "--network=none", "--share=net", *infra)
        self._machine.podman("pod", "start", self.name)
        self._infra_pid = self.pid("infra")
        return self

    def __exit__(self, failure: type[BaseException] | None, *exc_info: object) -> None:
        if failure:
            print(self._machine.printed(self.name))
        self._machine.podman("pod", "rm", "--force", "--time=0", self.name, check=False)
        subprocess.run(("umount", "--lazy", self.volume), check=True)


def wait_for(happened: Callable[[], _T], what: str, within_s: float = _PATIENCE_S) -> _T:
    """Ask again and again until the answer is true, and return it. Raises TimeoutError that says what did not happen."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if answer := happened():
            return answer
        time.sleep(0.01)
    raise TimeoutError(f"waited {within_s} s for {what}")


def proc_status(pid: int) -> dict[str, str]:
    """The lines of /proc/PID/status by their names."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def memory_mib(pid: int) -> tuple[float, float]:
    """What a process's control group may use of memory, files in tmpfs included, and the most that it has used."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    groups = {names: path for _, names, path in (line.split(":", 2) for line in lines)}
    if "memory" in groups:
        group, names = Path(f"/sys/fs/cgroup/memory{groups['memory']}"), ("limit_in_bytes", "max_usage_in_bytes")
    else:
        group, names = Path(f"/sys/fs/cgroup{groups['']}"), ("max", "peak")
    limit, peak = (int((group / f"memory.{name}").read_text()) / (1 << 20) for name in names)
    return limit, peak


def age_s(pid: int) -> float:
    """For how many seconds a process has been running, to some 10 ms."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _runs(pid: int) -> bool:
    try:
        return proc_status(pid)["State"][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter the network namespace")
