"""The objects of deploy/helm are what Kubernetes takes, and the executor makes its pods of the template as it stands.

`make proofs` installs the packages; AIRLOCK_KUBERNETES_PYTHON names the Python of another place that has them.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from airlock_local.settings import ROOT
from tests.helm_values import EXECUTORS, read_manifests, read_pod, read_values

PYTHON = Path(os.environ.get("AIRLOCK_KUBERNETES_PYTHON") or ROOT / ".venv/kubernetes/bin/python")
MODELS = {"Job": "V1Job", "NetworkPolicy": "V1NetworkPolicy"}

pytestmark = pytest.mark.proof


def run(module: str, *arguments: str, told: str = "", home: Path) -> Any:
    assert PYTHON.is_file(), f"there is no {PYTHON}: run make proofs, or set AIRLOCK_KUBERNETES_PYTHON"
    done = subprocess.run(
        [str(PYTHON), "-m", module, *arguments],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "AIRFLOW_HOME": str(home)},
        input=told,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def find_faults(*objects: tuple[str, Any], home: Path) -> list[list[str]]:
    found: list[list[str]] = run("tests.servers.kubernetes_models", told=json.dumps(objects), home=home)
    return found


def test_kubernetes_takes_every_object(tmp_path: Path) -> None:
    given = [("V1Pod", read_pod())]
    given += [(MODELS[one["kind"]], one) for found in read_manifests().values() for one in found]
    for executor in EXECUTORS:
        values = read_values(executor)
        given += [("V1Volume", one) for one in values["volumes"]]
        given += [("V1VolumeMount", one) for one in values["volumeMounts"]]
        given += [("V1PodSecurityContext", values["securityContexts"]["pod"])]
        given += [("V1SecurityContext", values["securityContexts"]["containers"])]
        given += [("V1NetworkPolicyPeer", one) for one in values["apiServer"]["networkPolicy"]["ingress"]["from"]]
        parts = [values[name] for name in ("scheduler", "dagProcessor", "triggerer", "apiServer", "migrateDatabaseJob")]
        given += [("V1ResourceRequirements", one["resources"]) for one in parts]
    celery = read_values("celery")["workers"]["celery"]
    given += [("V1Volume", one) for one in celery["extraVolumes"]]
    given += [("V1VolumeMount", one) for one in celery["extraVolumeMounts"]]
    given += [("V1EnvVar", one) for one in celery["env"]]
    given += [("V1ResourceRequirements", celery["resources"])]
    given += [("V1EmptyDirVolumeSource", read_values("celery")["logs"]["emptyDirConfig"])]
    assert find_faults(*given, home=tmp_path) == [[]] * len(given)


def test_what_kubernetes_refuses_is_found(tmp_path: Path) -> None:
    pod = json.loads(json.dumps(read_pod()))
    pod["spec"]["securityContext"]["runAsUser"] = "50000"
    pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True
    del pod["spec"]["containers"][0]["name"]
    (faults,) = find_faults(("V1Pod", pod), home=tmp_path)
    assert len(faults) == 3
    for word in ("runAsUser", "readOnlyRootFileSystem", "name"):
        assert any(word in fault for fault in faults), word


def test_the_executor_changes_nothing_of_the_template_but_the_command(tmp_path: Path) -> None:
    template = tmp_path / "pod_template_file.yaml"
    template.write_text(yaml.safe_dump(read_pod()))
    made = run("tests.servers.task_pod", str(template), home=tmp_path)
    (container,), (asked,) = made["spec"]["containers"], read_pod()["spec"]["containers"]
    assert container.pop("args")[:3] == ["python", "-m", "airflow.sdk.execution_time.execute_workload"]
    assert container["env"].pop() == {"name": "AIRFLOW_IS_K8S_EXECUTOR_POD", "value": "True"}
    assert made["spec"] == read_pod()["spec"]
    assert container == asked
    assert made["metadata"]["labels"].items() >= read_pod()["metadata"]["labels"].items()
