"""What schemas don't know: whether the parts of the manifests fit each other, the sidecar, and the `restricted` standard."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from datafile_sidecar.config.settings import VARIABLES, load
from tests.k8s.kustomize import FOLDERS, K8S, Object, all_objects, objects, pod_template, rendered

_LABEL = "datafile-sidecar/inject"
_SIDECAR = "datafile-sidecar"
_MIB = 1 << 20
_RESIDENT_MIB, _LARGEST_DATAFILE_MIB = 48, 8
_UNITS = {"Mi": _MIB, "Gi": _MIB << 10}


def _labelled() -> Iterator[tuple[str, Object, Object]]:
    """Every workload that asks for the sidecar: its name, itself, and its pod."""
    for name, found in all_objects():
        if found["metadata"].get("labels", {}).get(_LABEL) == "true":
            template = pod_template(found)
            assert template
            yield f"{name}/{found['kind']}", found, template


def _sidecar(template: Object) -> Object:
    first: Object = template["spec"]["initContainers"][0]
    return first


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * _UNITS[quantity[-2:]]


def test_every_kind_of_workload_is_covered() -> None:
    """The checks below look at each kind of workload that the component knows, or they would prove little."""
    kinds = {found["kind"] for _, found, _ in _labelled()}
    assert kinds == {"Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"}


def test_the_sidecar_is_a_native_one_before_all_else() -> None:
    """It starts before the app and its init containers, ends after the app, and lets a Job complete."""
    for where, _, template in _labelled():
        sidecar = _sidecar(template)
        assert (sidecar["name"], sidecar["restartPolicy"]) == (_SIDECAR, "Always"), where
        assert _SIDECAR not in [container["name"] for container in template["spec"]["containers"]], where


def test_the_sidecar_passes_the_restricted_standard() -> None:
    """A namespace that enforces `restricted` admits the sidecar, and its root file system can't be written to."""
    for where, _, template in _labelled():
        context = _sidecar(template)["securityContext"]
        assert context == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsGroup": 65532,
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        }, where


def test_every_app_container_reads_the_directory_and_can_write_none_of_it() -> None:
    """Each container of the app finds the datafile where its client looks, as a directory, and cannot damage it."""
    for where, _, template in _labelled():
        for container in template["spec"]["containers"]:
            mounts = [mount for mount in container["volumeMounts"] if mount["name"] == "datafile"]
            assert mounts == [{"name": "datafile", "mountPath": "/var/run/datafile", "readOnly": True}], where
            environment = {entry["name"]: entry for entry in container["env"]}
            assert environment["DATAFILE_DIR"]["value"] == "/var/run/datafile", where
            assert environment["DATAFILE_SDK_KEYS"] == _environment(template)["DATAFILE_SDK_KEYS"], where


def _environment(template: Object) -> dict[str, Object]:
    return {entry["name"]: entry for entry in _sidecar(template)["env"]}


def test_no_sub_path() -> None:
    """No mount shows the first datafile for ever."""
    assert "subPath" not in "".join(map(rendered, FOLDERS.values()))


def test_the_sdk_keys_come_from_the_pods_own_annotation() -> None:
    """One annotation names the SDK keys, and sidecar and app can't differ in them."""
    for where, _, template in _labelled():
        path = _environment(template)["DATAFILE_SDK_KEYS"]["valueFrom"]["fieldRef"]["fieldPath"]
        (annotation,) = re.findall(r"^metadata\.annotations\['(.+)'\]$", path)
        assert annotation in template["metadata"]["annotations"], where


def test_the_sidecar_understands_its_environment() -> None:
    """Each variable is one that the sidecar knows, its value is one that it takes, and none is set twice."""
    known = {variable.name for variable in VARIABLES}
    for where, _, template in _labelled():
        entries = _sidecar(template)["env"]
        names = [entry["name"] for entry in entries]
        assert len(set(names)) == len(names), where
        assert set(names) <= known, where
        environment = {entry["name"]: entry["value"] for entry in entries if "value" in entry}
        environment["DATAFILE_SDK_KEYS"] = template["metadata"]["annotations"]["datafile-sidecar/sdk-keys"]
        assert str(load(environment).dir) == "/var/run/datafile", where


def test_every_path_that_the_sidecar_is_told_is_mounted() -> None:
    """What its environment points to is there: the directory to write, the secrets to read."""
    for where, _, template in _labelled():
        sidecar = _sidecar(template)
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        mounts = {mount["mountPath"]: mount for mount in sidecar["volumeMounts"]}
        environment = _environment(template)
        data = mounts[environment["DATAFILE_DIR"]["value"]]
        assert "readOnly" not in data, where
        assert volumes[data["name"]]["emptyDir"]["medium"] == "Memory", where
        if path := environment.get("DATAFILE_WEBHOOK_SECRETS_PATH"):
            secrets = mounts[path["value"]]
            assert secrets["readOnly"], where
            assert volumes[secrets["name"]]["secret"]["secretName"] == _example_secret()["metadata"]["name"], where


def _example_secret() -> Object:
    (secret,) = objects((K8S / "base/secret.example.yaml").read_text())
    return secret


def test_the_example_secret_is_never_applied_by_itself() -> None:
    """Nobody runs with a webhook secret that stands in a public repository, except to try it with the simulator."""
    assert [name for name, found in all_objects() if found["kind"] == "Secret"] == ["try"]


def test_the_volume_fits_into_the_memory_limit() -> None:
    """A full volume gives ENOSPC, which is survived, and never an out-of-memory kill, which would repeat for ever."""
    for where, _, template in _labelled():
        (volume,) = (volume for volume in template["spec"]["volumes"] if volume["name"] == "datafile")
        size, limit = (
            _bytes(volume["emptyDir"]["sizeLimit"]),
            _bytes(_sidecar(template)["resources"]["limits"]["memory"]),
        )
        assert size >= 3 * _LARGEST_DATAFILE_MIB * _MIB, where
        assert limit > size + (_RESIDENT_MIB + 2 * _LARGEST_DATAFILE_MIB) * _MIB, where


def test_probes_ask_ports_that_exist_for_pages_that_exist() -> None:
    """A probe that asks in the wrong place would restart a healthy sidecar."""
    for where, _, template in _labelled():
        sidecar = _sidecar(template)
        ports = {port["name"]: port["containerPort"] for port in sidecar["ports"]}
        assert ports == {
            "datafile-hook": _listen("DATAFILE_WEBHOOK_LISTEN"),
            "datafile-admin": _listen("DATAFILE_ADMIN_LISTEN"),
        }
        for probe in (sidecar[name] for name in sidecar if name.endswith("Probe")):
            assert ports[probe["httpGet"]["port"]] == 8088, where
            assert probe["httpGet"]["path"] in {"/livez", "/readyz"}, where
        assert sidecar["livenessProbe"]["httpGet"]["path"] == "/livez", where


def _listen(name: str) -> int:
    (default,) = (variable.default for variable in VARIABLES if variable.name == name)
    return int(default.strip("`:"))


@pytest.mark.parametrize(
    ("name", "startup", "readiness"),
    [
        ("all-kinds", "/livez", "/readyz"),
        ("all-kinds-strict", "/readyz", "/readyz"),
        ("all-kinds-lenient", "/livez", None),
    ],
)
def test_what_an_outage_at_the_start_means(name: str, startup: str, readiness: str | None) -> None:
    """By default the app starts and gets no traffic; `strict` holds it back, `lenient` lets it serve; nothing is killed."""
    for where, _, template in _labelled():
        if where.startswith(f"{name}/"):
            sidecar = _sidecar(template)
            assert sidecar["startupProbe"]["httpGet"]["path"] == startup, where
            assert sidecar.get("readinessProbe", {}).get("httpGet", {}).get("path") == readiness, where
            waits_s = sidecar["startupProbe"]["periodSeconds"] * sidecar["startupProbe"]["failureThreshold"]
            assert waits_s >= (120 if startup == "/readyz" else 30), where


def test_services_and_policies_select_the_pods() -> None:
    """Webhooks and relays reach pods that stay, metrics and policies reach every sidecar: no label is misspelt."""
    stays = {"Deployment", "StatefulSet", "DaemonSet"}
    services = [_selector("base", name) for name in ("datafile-webhook", "datafile-peers")]
    watched = [
        _found("watched", "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        _found("watched", "PodMonitor")["spec"]["selector"]["matchLabels"],
    ]
    for where, found, template in _labelled():
        labels = template["metadata"]["labels"].items()
        for selector in services:
            is_in = found["kind"] in stays and not where.startswith("all-kinds-fleet/")
            assert (selector.items() <= labels) == is_in, where
        assert all(selector.items() <= labels for selector in watched), where
        selector = found["spec"].get("selector", {}).get("matchLabels", {})
        assert selector.items() <= labels, where


def test_a_pod_that_completes_leaves_no_address_behind() -> None:
    """A Job asks the other sidecars and is asked by none, so that no `status` waits for a pod that has completed."""
    completes = [(where, template) for where, _, template in _labelled() if where.endswith("Job")]
    assert {where.rpartition("/")[2] for where, _ in completes} == {"Job", "CronJob"}
    for where, template in completes:
        for service in ("datafile-webhook", "datafile-peers"):
            assert not _selector("base", service).items() <= template["metadata"]["labels"].items(), where
        assert _environment(template).keys() & {"DATAFILE_PEERS", "DATAFILE_BUS_URL"}, where


def _found(name: str, kind: str, called: str | None = None) -> Object:
    (found,) = (
        found
        for found in objects(rendered(FOLDERS[name]))
        if found["kind"] == kind and called in {None, found["metadata"]["name"]}
    )
    return found


def _selector(name: str, service: str) -> dict[str, str]:
    selector: dict[str, str] = _found(name, "Service", service)["spec"]["selector"]
    return selector


def test_examples_stand_alone() -> None:
    """Whoever applies or deletes one example touches no other, and not what the namespace's services share."""
    shared = {(found["kind"], found["metadata"]["name"]) for found in objects(rendered(FOLDERS["namespace"]))}
    assert ("Service", "datafile-peers") in shared
    owners: dict[tuple[str, str], str] = {}
    apps: dict[str, str] = {}
    for name in ("deployment", "statefulset", "job", "cronjob", "httproute"):
        for found in objects(rendered(FOLDERS[name])):
            key = (found["kind"], found["metadata"]["name"])
            assert key not in shared, name
            assert owners.setdefault(key, name) == name
            if template := pod_template(found):
                app = template["metadata"]["labels"]["app.kubernetes.io/name"]
                assert app == found["metadata"]["name"], name
                assert apps.setdefault(app, name) == name
    assert len(apps) == 4


def test_no_request_is_refused_in_a_rollout() -> None:
    """A pod behind a Service goes on answering until its address is withdrawn everywhere."""
    for name in ("deployment", "statefulset"):
        (template,) = (template for found in objects(rendered(FOLDERS[name])) if (template := pod_template(found)))
        (container,) = template["spec"]["containers"]
        assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "3"], name


def test_ways_in_lead_to_the_webhook_and_nowhere_else() -> None:
    """Ingress, route, Services and peers meet at one path and one port; the admin port is open to nobody outside."""
    service = _found("base", "Service", "datafile-webhook")
    assert [port["targetPort"] for port in service["spec"]["ports"]] == [8089]
    ((path,),) = (rule["http"]["paths"] for rule in _found("namespace", "Ingress")["spec"]["rules"])
    assert (path["path"], path["pathType"]) == ("/webhooks/optimizely", "Exact")
    backend = path["backend"]["service"]
    assert (backend["name"], backend["port"]["name"]) == ("datafile-webhook", service["spec"]["ports"][0]["name"])
    (rule,) = _found("httproute", "HTTPRoute")["spec"]["rules"]
    (match,), (target,) = rule["matches"], rule["backendRefs"]
    assert match["path"] == {"type": "Exact", "value": "/webhooks/optimizely"}
    assert (target["name"], target["port"]) == ("datafile-webhook", service["spec"]["ports"][0]["port"])


def test_peers_are_found_before_they_are_ready() -> None:
    """A pod that is just starting hears of a flip, too: the name that the sidecars ask stands for every one of them."""
    peers = _found("base", "Service", "datafile-peers")
    assert (peers["spec"]["clusterIP"], peers["spec"]["publishNotReadyAddresses"]) == ("None", True)
    ports = {port["port"]: port["targetPort"] for port in peers["spec"]["ports"]}
    assert ports == {8089: 8089, 8088: 8088}
    for where, _, template in _labelled():
        if told := _environment(template).get("DATAFILE_PEERS"):
            (peer,) = load({"DATAFILE_SDK_KEYS": "k", "DATAFILE_PEERS": told["value"]}).peers
            assert peer == (peers["metadata"]["name"], 8089), where


def test_metrics_are_scraped_from_a_port_that_exists() -> None:
    """The PodMonitor asks the admin port, where the metrics are."""
    (endpoint,) = _found("watched", "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("datafile-admin", "/metrics")


def test_policies_leave_the_admin_port_to_those_who_need_it() -> None:
    """The ingress controller reaches the webhook port only; peers and Prometheus reach what they ask."""
    rules: list[Any] = _found("watched", "NetworkPolicy")["spec"]["ingress"]
    opened = [sorted(port["port"] for port in rule["ports"]) for rule in rules]
    assert opened == [[8089], [8088, 8089], [8088]]
    assert all(rule["from"] for rule in rules)
