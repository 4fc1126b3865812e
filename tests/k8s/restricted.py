"""The Pod Security Standard `restricted`: what it objects to in a pod. Kubernetes' admission plugin is not here to be asked."""

from collections.abc import Iterator
from typing import Any

from tests.k8s.kustomize import Object

_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
_SYSCTLS = {
    *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start"),
    *("net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports"),
    *("net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl"),
    *("net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"),
}
_SECCOMP = {"RuntimeDefault", "Localhost"}
_SELINUX_TYPES = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def violations(spec: Object) -> list[str]:
    """Return what a namespace that enforces `restricted` would refuse in a pod's spec, by field."""
    containers = [one for kind in ("initContainers", "containers", "ephemeralContainers") for one in spec.get(kind, ())]
    pod = spec.get("securityContext", {})
    found = [*_of_pod(spec, pod), *_of_context("pod", pod)]
    for container in containers:
        found += _of_container(container, pod)
    return found


def _of_pod(spec: Object, context: Object) -> Iterator[str]:
    yield from (name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name))
    for volume in spec.get("volumes", ()):
        if not _VOLUMES & volume.keys():
            yield f"volume {volume['name']}"
    yield from (f"sysctl {one['name']}" for one in context.get("sysctls", ()) if one["name"] not in _SYSCTLS)


def _of_context(where: str, context: Object) -> Iterator[str]:
    """Yield what holds for a pod and for a container alike."""
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{where}: hostProcess"
    if context.get("appArmorProfile", {}).get("type") == "Unconfined":
        yield f"{where}: appArmorProfile"
    labels: Any = context.get("seLinuxOptions", {})
    if labels.get("type") not in _SELINUX_TYPES or labels.get("user") or labels.get("role"):
        yield f"{where}: seLinuxOptions"
    if context.get("runAsUser") == 0:
        yield f"{where}: runAsUser"


def _of_container(container: Object, pod: Object) -> Iterator[str]:
    where, own = container["name"], container.get("securityContext", {})
    yield from _of_context(where, own)
    yield from (f"{where}: {name}" for name in _open(container, own))
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield f"{where}: runAsNonRoot"
    profile = own.get("seccompProfile", pod.get("seccompProfile", {}))
    if profile.get("type") not in _SECCOMP:
        yield f"{where}: seccompProfile"


def _open(container: Object, own: Object) -> Iterator[str]:
    """Yield what only a container can have."""
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", ()):
        yield "capabilities.drop"
    if set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield "capabilities.add"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if own.get("privileged"):
        yield "privileged"
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield "hostPort"
