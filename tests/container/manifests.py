"""Pods from the rendered manifests, for podman: containers, arguments, environment and volumes as they stand there."""

import base64
import json
from pathlib import Path
from typing import Any

from tests.container.pods import Pod
from tests.k8s.kustomize import FOLDERS, Object, objects, rendered

_FIELD = "metadata.annotations['"


class Manifests:
    """The objects of one kustomization, and the folders that stand for its volumes on this machine."""

    def __init__(self, name: str, home: Path, *more: Object) -> None:
        found = (*objects(rendered(FOLDERS[name])), *more)
        self._objects = {(one["kind"], one["metadata"]["name"]): one for one in found}
        self._home = home
        self._home.mkdir(exist_ok=True)

    def template(self, kind: str, name: str) -> Object:
        """The pod template of a workload."""
        template: Object = self._objects[kind, name]["spec"]["template"]
        return template

    def run(self, pod: Pod, template: Object, container: Object, name: str, volume: Path, **settings: str) -> None:
        """Start a container of a template in a pod, with further settings. Its image is the one that was built here.

        Args:
            volume: what stands for the volume of the datafiles.
        """
        options = [f"--env={key}={value}" for key, value in self._environment(template, container, settings).items()]
        options += [f"--entrypoint={json.dumps(command)}" for command in (container.get("command"),) if command]
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        for mount in container["volumeMounts"]:
            source = volume if mount["name"] == "datafile" else self._folder(volumes[mount["name"]])
            options.append(f"--volume={source}:{mount['mountPath']}:{'ro' if mount.get('readOnly') else 'rw'}")
        user = container["securityContext"].get("runAsUser")
        options += [f"--user={user}:{user}"] if user else []
        image = container["image"].rpartition("/")[2].partition(":")[0]
        pod.run(name, image, *container.get("args", ()), options=tuple(options))

    def _environment(self, template: Object, container: Object, settings: dict[str, str]) -> dict[str, str]:
        annotations = template["metadata"].get("annotations", {})
        values = {}
        for entry in container.get("env", ()):
            path: Any = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            value = annotations[path.removeprefix(_FIELD).removesuffix("']")] if path else entry["value"]
            values[entry["name"]] = value
        return values | settings

    def _folder(self, volume: Object) -> Path:
        """A folder with what a Secret or a ConfigMap holds, or an empty one."""
        folder = Path(self._home, volume["name"])
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
        for kind, reference in (("Secret", "secretName"), ("ConfigMap", "name")):
            source = volume.get(kind[0].lower() + kind[1:])
            if source and (found := self._objects.get((kind, source[reference]))):
                for name, content in _content(found).items():
                    (folder / name).write_bytes(content)
        return folder


def _content(found: Object) -> dict[str, bytes]:
    if found["kind"] == "Secret":
        return {name: base64.b64decode(value) for name, value in found["data"].items()}
    return {name: value.encode() for name, value in found["data"].items()}
