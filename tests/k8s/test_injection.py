"""What the admission policies make of every kind of pod: as a server answered, in our own words."""

import copy

import pytest

from tests.k8s.admission import SDK_KEYS, Server, plain_pod
from tests.k8s.kustomize import FOLDERS, INJECT, WORKLOADS, Object, objects, pod_template, rendered


@pytest.fixture(scope="module")
def server() -> Server:
    """The policies as they are applied."""
    return Server()


def _shape(pod: Object) -> Object:
    """What is compared: the names in a pod, in their order."""
    spec = pod["spec"]
    return {
        "init": [one["name"] for one in spec.get("initContainers", ())],
        "volumes": [one["name"] for one in spec.get("volumes", ())],
        "mounts": {one["name"]: [m["name"] for m in one.get("volumeMounts", ())] for one in spec["containers"]},
        "env": {one["name"]: [e["name"] for e in one.get("env", ())] for one in spec["containers"]},
        "labels": {label.partition("/")[2] for label in pod["metadata"].get("labels", {})},
    }


_VOLUMES = ["datafile", "datafile-webhook-secrets"]
_VARIABLES = ["DATAFILE_SDK_KEYS", "DATAFILE_DIR"]
_LABELS = {"inject", "injected", "peer", "webhook"}


class TestInjected:
    """Thirty pods that a server with Kubernetes 1.36 was asked for, and what it answered, in our own words."""

    def test_a_plain_pod(self, server: Server) -> None:
        """A pod with label and annotation gets sidecar, volumes, mount, environment and labels."""
        admission = server.admit(plain_pod())
        assert not admission.refusals
        assert _shape(admission.object) == {
            "init": ["datafile-sidecar"],
            "volumes": _VOLUMES,
            "mounts": {"web": ["datafile"]},
            "env": {"web": _VARIABLES},
            "labels": _LABELS,
        }

    @pytest.mark.parametrize(
        ("pod", "namespace"),
        [
            (plain_pod(labels={}), None),
            (plain_pod(labels={INJECT: "false"}), None),
            (plain_pod(labels={INJECT: "True"}), None),
            (plain_pod(labels={INJECT: "false"}), "true"),
            (plain_pod(labels={}), "false"),
            (plain_pod(annotations={**SDK_KEYS, "kubernetes.io/config.mirror": "x"}), None),
            (plain_pod({"initContainers": [{"name": "datafile-sidecar", "image": "theirs"}]}), None),
            (plain_pod({"containers": [{"name": "web"}, {"name": "datafile-sidecar"}]}), None),
        ],
        ids=["no label", "false", "True", "false in a namespace", "namespace false", "mirror", "injected", "by hand"],
    )
    def test_left_alone(self, server: Server, pod: Object, namespace: str | None) -> None:
        """Who does not ask, or has the sidecar already, gets the pod that was asked for."""
        admission = server.admit(pod, {INJECT: namespace} if namespace else {})
        assert (admission.object, admission.refusals) == (pod, [])

    @pytest.mark.parametrize("labels", [{}, {INJECT: "true"}], ids=["by the namespace", "by both"])
    def test_a_namespace(self, server: Server, labels: dict[str, str]) -> None:
        """A pod in a namespace with the label gets the sidecar without a label of its own, and never twice."""
        admission = server.admit(plain_pod(labels=labels), {INJECT: "true"})
        assert not admission.refusals
        assert _shape(admission.object)["init"] == ["datafile-sidecar"]

    def test_before_other_init_containers(self, server: Server) -> None:
        """The sidecar starts first, so that an init container can use it."""
        admission = server.admit(plain_pod({"initContainers": [{"name": "migrate", "image": "theirs"}]}))
        assert _shape(admission.object)["init"] == ["datafile-sidecar", "migrate"]

    def test_a_chosen_container(self, server: Server) -> None:
        """Only the containers that the annotation names get mount and environment."""
        containers = [{"name": "web"}, {"name": "mail", "env": [{"name": "A", "value": "b"}]}, {"name": "cron"}]
        annotations = {**SDK_KEYS, "datafile-sidecar/containers": "web , cron"}
        shape = _shape(server.admit(plain_pod({"containers": containers}, annotations=annotations)).object)
        assert shape["mounts"] == {"web": ["datafile"], "mail": [], "cron": ["datafile"]}
        assert shape["env"] == {"web": _VARIABLES, "mail": ["A"], "cron": _VARIABLES}

    def test_what_is_there_is_kept(self, server: Server) -> None:
        """An app's own variable, mount, volume and Secret stay as they are."""
        web = {
            "name": "web",
            "env": [{"name": "DATAFILE_DIR", "value": "/mine"}],
            "volumeMounts": [{"name": "datafile", "mountPath": "/var/run/datafile"}],
        }
        volumes: list[Object] = [
            {"name": "datafile", "emptyDir": {}},
            {"name": "datafile-webhook-secrets", "secret": {"secretName": "mine"}},
        ]
        admission = server.admit(plain_pod({"containers": [web], "volumes": volumes}))
        assert admission.object["spec"]["volumes"] == volumes
        (container,) = admission.object["spec"]["containers"]
        assert container["env"][0] == web["env"][0]
        assert [entry["name"] for entry in container["env"]] == ["DATAFILE_DIR", "DATAFILE_SDK_KEYS"]
        assert container["volumeMounts"] == web["volumeMounts"]

    @pytest.mark.parametrize("policy", ["Never", "OnFailure"])
    def test_a_pod_that_completes(self, server: Server, policy: str) -> None:
        """The pod of a Job, of a workflow, or a bare one that ends is in no Service, and its peers are known to it."""
        owners = [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u"}]
        for metadata in ({"ownerReferences": owners}, {}):
            admission = server.admit(plain_pod({"restartPolicy": policy}, **metadata))
            assert _shape(admission.object)["labels"] == {"inject", "injected"}
            names = [entry["name"] for entry in admission.object["spec"]["initContainers"][0]["env"]]
            assert "DATAFILE_PEERS" in names

    @pytest.mark.parametrize(
        "spec",
        [
            {"os": {"name": "linux"}},
            {"containers": [{"name": "web", "ports": [{"containerPort": 8088, "name": "datafile-admin"}]}]},
            {"securityContext": {"runAsUser": 1, "fsGroup": 2}},
            {"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}},
        ],
        ids=["linux", "its port", "another user", "pod-level resources"],
    )
    def test_taken_as_any_other(self, server: Server, spec: Object) -> None:
        """Pods that look odd and fit are injected like any other."""
        admission = server.admit(plain_pod(spec))
        assert not admission.refusals
        assert _shape(admission.object)["labels"] == _LABELS

    def test_a_generated_name(self, server: Server) -> None:
        """Pods whose name the server makes, as every controller asks for them, are injected."""
        pod = plain_pod(generateName="e-")
        del pod["metadata"]["name"]
        assert _shape(server.admit(pod).object)["init"] == ["datafile-sidecar"]


@pytest.mark.parametrize(
    ("spec", "metadata", "words"),
    [
        ({}, {"annotations": {}}, "annotation datafile-sidecar/sdk-keys is missing or empty; set it on the pod template"),
        ({}, {"annotations": {"datafile-sidecar/sdk-keys": " "}}, "annotation datafile-sidecar/sdk-keys is missing or empty"),
        ({"hostNetwork": True}, {}, "ports 8088 and 8089 of the node"),
        ({"os": {"name": "windows"}}, {}, "does not run on Windows"),
        ({"volumes": [{"name": "datafile", "configMap": {"name": "x"}}]}, {}, "a volume named datafile that is not"),
        ({}, {"annotations": {**SDK_KEYS, "datafile-sidecar/containers": "web, webb"}}, "names webb; the pod has no container"),
        ({}, {"annotations": {**SDK_KEYS, "datafile-sidecar/without-datafile": "Strict"}}, "is Strict; it takes unready, strict"),
    ],
    ids=["no annotation", "empty annotation", "hostNetwork", "windows", "volume", "container", "without-datafile"],
)  # fmt: skip
@pytest.mark.parametrize("by", ["pod", "namespace"])
def test_refused_with_a_reason(server: Server, spec: Object, metadata: Object, words: str, by: str) -> None:
    """A pod that asks for the sidecar and can't have it does not start without flags: whoever made it reads why."""
    pod = plain_pod(spec, **metadata)
    if by == "namespace":
        pod["metadata"]["labels"] = {}
    refusals = server.admit(pod, {INJECT: "true"} if by == "namespace" else {}).refusals
    assert words in refusals[0]
    assert refusals[0].startswith("datafile-sidecar: ")


def test_a_missing_policy_is_noticed(server: Server) -> None:
    """Where somebody removed the policy that injects, pods are refused with that reason rather than started without flags."""
    without = Server([found for found in server.installed if not found["kind"].startswith("Mutating")])
    assert "was not injected" in without.admit(plain_pod()).refusals[0]
    assert without.admit(plain_pod(labels={})).refusals == []


class TestWarned:
    """A label or annotation that is missing or in the wrong place is said at `kubectl apply`."""

    def _workload(self, kind: str) -> Object:
        named = {found["kind"]: found for found in objects(rendered(WORKLOADS / "kinds")) if INJECT in str(found)}
        workload = copy.deepcopy(named[kind])
        del workload["metadata"]["labels"]
        template = pod_template(workload)
        assert template
        template["metadata"]["labels"][INJECT] = "true"
        return workload

    @pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"])
    def test_right_ones(self, server: Server, kind: str) -> None:
        """A workload that has both in the right place causes no warning, and neither does one that asks for nothing."""
        workload = self._workload(kind)
        assert server.admit(workload).warnings == []
        template = pod_template(workload)
        assert template
        template["metadata"] = {}
        assert server.admit(workload).warnings == []

    @pytest.mark.parametrize("kind", ["Deployment", "CronJob"])
    def test_forgotten(self, server: Server, kind: str) -> None:
        """Each half without the other is named, and so is a label that stands on the workload."""
        workload = self._workload(kind)
        template = pod_template(workload)
        assert template
        del template["metadata"]["annotations"]
        (warning,) = server.admit(workload).warnings
        assert "needs the annotation datafile-sidecar/sdk-keys" in warning
        template["metadata"] = {"annotations": SDK_KEYS}
        (warning,) = server.admit(workload).warnings
        assert 'has the label datafile-sidecar/inject: "true": its pods get no sidecar' in warning
        workload["metadata"]["labels"] = {INJECT: "true"}
        assert "stands on the workload only" in server.admit(workload).warnings[-1]
        assert server.admit(workload, {INJECT: "true"}).warnings == []
        template["metadata"]["labels"] = {INJECT: "false"}
        assert server.admit(workload, {INJECT: "true"}).warnings == []

    def test_by_kustomize(self, server: Server) -> None:
        """Workloads that the component has changed are right as they are, though their label stands elsewhere."""
        for found in objects(rendered(FOLDERS["all-kinds"])):
            if INJECT in found["metadata"].get("labels", {}):
                assert server.admit(found).warnings == []
