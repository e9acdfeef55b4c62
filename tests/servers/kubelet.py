"""A Kubernetes of one machine for the KubernetesExecutor: the part of its API about pods, which podman runs.

Of a pod it does what decides whether a task works: image, arguments, variables with secrets, user and group, read-only
root, capabilities, privileges, the runtime's seccomp profile, memory, and volumes with their limits. Without podman's
own defaults: no capability, no writable folder, and no network but the namespace that it is given.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from tests.servers.serving import QuietHandler

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

Pod = dict[str, Any]
_PODS = {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod"}
_DISCOVERY = {
    "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [_PODS | {"verbs": ["create", "delete", "get", "list", "patch", "watch"]}],
    },
}


@dataclass(frozen=True)
class Node:
    """What a pod finds on its machine.

    Parameters
    ----------
    image
        The image in podman that stands for the one that pods name.
    network
        The namespace's file.
    config_maps
        The folder of each ConfigMap.
    secrets
        The value of each secret's key.
    """

    image: str
    network: Path
    config_maps: Mapping[str, Path]
    secrets: Mapping[tuple[str, str], str]

    def command(self, pod: Pod) -> list[str]:
        """Return the command that runs a pod's container."""
        spec = pod["spec"]
        (container,) = spec["containers"]
        return [
            *("podman", "--runtime", "runc" if shutil.which("runc") else "crun", "run", "--rm"),
            *("--name", pod["metadata"]["name"], "--network", f"ns:{self.network}", "--pull", "never"),
            *_limit_rights(spec["securityContext"], container["securityContext"]),
            *("--memory", _podman_size(container["resources"]["limits"]["memory"])),
            *(f"--env={name}={value}" for name, value in self._variables(container)),
            *(f"--mount={mount}" for mount in self._mounts(spec["volumes"], container["volumeMounts"])),
            *(self.image, *container["args"]),
        ]

    def _variables(self, container: dict[str, Any]) -> Iterator[tuple[str, str]]:
        for variable in container["env"]:
            if "value" in variable:
                yield variable["name"], variable["value"]
            else:
                asked = variable["valueFrom"]["secretKeyRef"]
                yield variable["name"], self.secrets[asked["name"], asked["key"]]

    def _mounts(self, volumes: list[dict[str, Any]], mounts: list[dict[str, Any]]) -> Iterator[str]:
        by_name = {volume["name"]: volume for volume in volumes}
        for mount in mounts:
            volume, target = by_name[mount["name"]], mount["mountPath"]
            if "emptyDir" in volume:
                size = _podman_size(volume["emptyDir"]["sizeLimit"])
                yield f"type=tmpfs,destination={target},tmpfs-size={size},tmpfs-mode=1777"
            else:
                source = self.config_maps[volume["configMap"]["name"]] / mount.get("subPath", "")
                yield f"type=bind,source={source},destination={target},readonly"


def _podman_size(kubernetes: str) -> str:
    return kubernetes.removesuffix("i").lower()


def _limit_rights(pod: dict[str, Any], container: dict[str, Any]) -> list[str]:
    given = ["--user", f"{pod['runAsUser']}:{pod['runAsGroup']}", "--read-only-tmpfs=false"]
    given += [f"--cap-drop={name}" for name in container["capabilities"]["drop"]]
    given += ["--read-only"] if container["readOnlyRootFilesystem"] else []
    given += [] if container["allowPrivilegeEscalation"] else ["--security-opt=no-new-privileges"]
    # podman would raise these limits, which not every machine lets it do.
    return [*given, "--ulimit=host"]


@dataclass
class Kubelet:
    """The pods of one machine, and what has happened to them."""

    node: Node
    log: Path  # a folder
    pods: dict[str, Pod] = field(default_factory=dict)
    made: list[Pod] = field(default_factory=list)  # every pod that was asked for, as it was asked for
    events: list[tuple[int, str, Pod]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    _versions: Iterator[int] = field(default_factory=lambda: count(1))

    def create(self, pod: Pod) -> Pod:
        """Begin a pod."""
        self.made.append(json.loads(json.dumps(pod)))
        pod["metadata"] |= {"uid": f"uid-{len(self.made)}", "creationTimestamp": "2026-12-01T00:00:00Z"}
        pod["status"] = {"phase": "Pending"}
        begun = self._note("ADDED", pod)
        threading.Thread(target=self._run, args=(pod["metadata"]["name"],), daemon=True).start()
        return begun

    def patch(self, name: str, changes: dict[str, Any]) -> Pod:
        """Set labels and annotations of a pod."""
        pod = self.pods[name]
        for part, values in changes.get("metadata", {}).items():
            pod["metadata"].setdefault(part, {}).update(values)
        return self._note("MODIFIED", pod)

    def delete(self, name: str) -> Pod:
        """Remove a pod, and end what it runs."""
        pod = self.pods.pop(name)
        if pod["status"]["phase"] not in {"Succeeded", "Failed"}:
            subprocess.run(["podman", "rm", "--force", "--ignore", name], check=False, capture_output=True, timeout=60)
        pod["metadata"]["deletionTimestamp"] = "2026-12-01T00:00:00Z"
        return self._note("DELETED", pod, keep=False)

    def _run(self, name: str) -> None:
        command = self.node.command(self.pods[name])
        self._end_phase(name, {"phase": "Running"})
        with (self.log / f"{name}.log").open("wb") as log:
            status = subprocess.run(command, check=False, stdout=log, stderr=log, stdin=subprocess.DEVNULL).returncode
        ended = {"name": "base", "image": "", "imageID": "", "ready": False, "restartCount": 0}
        ended |= {"state": {"terminated": {"exitCode": status, "reason": "Error" if status else "Completed"}}}
        self._end_phase(name, {"phase": "Failed" if status else "Succeeded", "containerStatuses": [ended]})

    def _end_phase(self, name: str, status: dict[str, Any]) -> None:
        pod = self.pods.get(name)
        if pod is not None:  # it was not deleted meanwhile
            pod["status"] = status
            self._note("MODIFIED", pod)

    def _note(self, kind: str, pod: Pod, *, keep: bool = True) -> Pod:
        with self.changed:
            version = next(self._versions)
            pod["metadata"]["resourceVersion"] = str(version)
            if keep:
                self.pods[pod["metadata"]["name"]] = pod
            seen: Pod = json.loads(json.dumps(pod))
            self.events.append((version, kind, seen))
            self.changed.notify_all()
        return seen

    def selected(self, selector: str) -> list[Pod]:
        """Return the pods whose labels a selector names."""
        return [pod for pod in self.pods.values() if _fits(pod, selector)]

    def watch(self, after: int, selector: str, seconds: float) -> Iterator[dict[str, Any]]:
        """Yield what happens to pods with these labels; end when nothing has happened for so long."""
        while True:
            with self.changed:
                news = [event for event in self.events if event[0] > after]
                if not news and not self.changed.wait(seconds):
                    return
            for version, kind, pod in news:
                after = version
                if _fits(pod, selector):
                    yield {"type": kind, "object": {"apiVersion": "v1", "kind": "Pod"} | pod}


def _fits(pod: Pod, selector: str) -> bool:
    labels = pod["metadata"].get("labels", {})
    for term in filter(None, selector.split(",")):
        name, unequal, value = term.partition("!=") if "!=" in term else term.partition("=")
        if (labels.get(name) == value) == (unequal == "!="):
            return False
    return True


class KubernetesApi(QuietHandler):
    """Answers the executor."""

    kubelet: ClassVar[Kubelet]

    def do_GET(self) -> None:
        """List, read or watch pods."""
        address = urlsplit(self.path)
        asked = {name: values[-1] for name, values in parse_qs(address.query).items()}
        if address.path in _DISCOVERY:
            self._reply(_DISCOVERY[address.path])
        elif not address.path.endswith("/pods"):
            self._reply_about(lambda name: self.kubelet.pods[name])
        elif asked.get("watch") in {"True", "true"}:
            self._stream(int(asked.get("resourceVersion") or 0), asked.get("labelSelector", ""))
        else:
            items = self.kubelet.selected(asked.get("labelSelector", ""))
            head = {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "0"}}
            self._reply(head | {"items": items})

    def do_POST(self) -> None:
        """Make a pod."""
        self._reply(self.kubelet.create(self._body()), HTTPStatus.CREATED)

    def do_PATCH(self) -> None:
        """Change a pod's labels."""
        changes = self._body()
        self._reply_about(lambda name: self.kubelet.patch(name, changes))

    def do_DELETE(self) -> None:
        """Remove a pod."""
        self._body()
        self._reply_about(self.kubelet.delete)

    def _body(self) -> dict[str, Any]:
        return dict(json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}"))

    def _reply_about(self, answer: Any) -> None:
        try:
            self._reply(answer(urlsplit(self.path).path.rsplit("/", 1)[-1]))
        except KeyError:
            self._reply({"kind": "Status", "status": "Failure", "code": 404}, HTTPStatus.NOT_FOUND)

    def _reply(self, body: Any, status: int = HTTPStatus.OK) -> None:
        self.answer(status, json.dumps(body), {"Content-Type": "application/json"})

    def _stream(self, after: int, selector: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in self.kubelet.watch(after, selector, seconds=20):
            line = json.dumps(event).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
