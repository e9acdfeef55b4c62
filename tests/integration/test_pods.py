"""The whole sample in pods of deploy/helm: Airflow's KubernetesExecutor makes them, podman runs them as they ask.

The root is read-only, the user is 50000 without a capability, volumes have limits, and the network has four doors:
Airflow's API server, S3, HealthImaging with HealthLake, and the ledger. `make helm-proof` builds the image and
runs this; it needs root, podman and iproute2. Not covered: the kubelet, the network policies, IRSA and S3 itself.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import yaml

from airlock.run import run_key
from airlock_cli.airflow_api import AirflowApi
from airlock_local.buckets import local_client, make_buckets
from airlock_local.choice import Choice, choose
from airlock_local.components import plan
from airlock_local.deliver import sample_files, upload
from airlock_local.environment import LOCAL_CONNECTION, USER, connection_variable, local_connection, read_secrets
from airlock_local.run import await_dag
from airlock_local.settings import ROOT, Settings
from airlock_local.stack import Stack
from tests.helm_values import read_manifests, read_pod, read_values
from tests.integration.test_manifests import PYTHON
from tests.servers.kubelet import Kubelet, KubernetesApi, Node
from tests.servers.network_namespace import network_of_its_own
from tests.servers.ports import free_port
from tests.servers.postgres import Postgres, postgres_server
from tests.servers.serving import serving
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["postgres_server"]

IMAGE = os.environ.get("AIRLOCK_POD_IMAGE", "")
PIPELINE = "sample"
LOGS = "s3://airlock-workspace/task-logs"
PATIENCE = 2400.0  # seconds for some sixty pods on a busy machine
AFTER_THE_SAMPLE = {"released": 370, "held": 20, "quarantined": 102, "ignored": 15, "duplicate": 2}  # as in README.md

pytestmark = [
    pytest.mark.proof,
    pytest.mark.slow,
    pytest.mark.timeout(PATIENCE * 1.5),
    pytest.mark.skipif(not IMAGE, reason="make helm-proof builds the image and names it in AIRLOCK_POD_IMAGE"),
]


@dataclass(frozen=True)
class Cluster:
    """The local stack, whose tasks run in pods."""

    settings: Settings
    choice: Choice
    kubelet: Kubelet
    node: Node

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a pod like a task's."""
        pod = self.task_pod()
        pod["spec"]["containers"][0]["args"] = list(arguments)
        return run_pod(self.node, pod)

    def task_pod(self) -> dict[str, Any]:
        """Return the pod template with the words in capitals replaced."""
        return replace_words(read_pod(), self.settings)


def replace_words(pod: dict[str, Any], settings: Settings) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(pod))
    for variable in changed["spec"]["containers"][0]["env"]:
        if variable["name"] == connection_variable(LOCAL_CONNECTION):
            variable["value"] = local_connection(settings)
    return changed


def run_pod(node: Node, pod: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    pod["metadata"]["name"] = f"airlock-{uuid4().hex[:12]}"
    return subprocess.run(node.command(pod), check=False, capture_output=True, text=True, timeout=300)


def write_configuration(folder: Path, settings: Settings) -> Path:
    """Write airflow.cfg of the values as the chart does, with the addresses of the local stack."""
    options = json.loads(json.dumps(read_values("kubernetes")["config"]))
    options["core"] |= {"execution_api_server_url": f"{settings.api_url}/execution/"}
    options["logging"] |= {"remote_base_log_folder": LOGS}
    lines = [
        f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in of.items()) for section, of in options.items()
    ]
    folder.mkdir(mode=0o755)
    (folder / "airflow.cfg").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, postgres_server: Postgres) -> Iterator[Cluster]:
    folder, ledger = tmp_path_factory.mktemp("cluster"), postgres_server.create_database()
    settings = Settings(api_port=free_port(), s3_port=free_port(), health_port=free_port(), var=folder / "var")
    to_ledger = free_port()
    doors = {port: port for port in (settings.api_port, settings.s3_port, settings.health_port)}
    doors |= {to_ledger: postgres_server.folder / ".s.PGSQL.5432"}
    with network_of_its_own(f"airlock-{uuid4().hex[:8]}", doors) as network:
        node = Node(
            image=IMAGE,
            network=network,
            config_maps={
                "airlock-config": write_configuration(folder / "config", settings),
                "airlock-pipelines": settings.pipelines,
            },
            secrets={
                (name, "url"): f"postgresql://airlock@127.0.0.1:{to_ledger}/{ledger}"
                for name in ("airlock-ledger", "airlock-ledger-owner")
            },
        )
        (folder / "pods").mkdir()
        kubelet = Kubelet(node, folder / "pods")
        choice = choose(settings.pipelines, PIPELINE, "", {})
        with running(settings, choice, kubelet, folder):
            yield Cluster(settings, choice, kubelet, node)


@contextmanager
def running(settings: Settings, choice: Choice, kubelet: Kubelet, folder: Path) -> Iterator[None]:
    """Start the local stack with a scheduler that has the KubernetesExecutor, and deliver the sample."""
    assert PYTHON.is_file(), f"there is no {PYTHON}: run make helm-proof, or set AIRLOCK_KUBERNETES_PYTHON"
    parts = plan(settings, os.environ, choice.seeds(), local=True, account=False)
    with serving(KubernetesApi, kubelet=kubelet) as kubernetes:
        changed = executor_variables(settings, kubernetes, folder)
        services = tuple(
            replace(one, argv=(str(PYTHON), *one.argv[1:]), environment={**one.environment, **changed})
            if one.name == "scheduler"
            else one
            for one in parts.services
        )
        stack = Stack(settings)
        try:
            stack.up(replace(parts, services=services))
            client = local_client(settings.s3_url)
            make_buckets(client, choice.buckets())
            upload(client, sample_files(folder / "sample", choice.pipeline.kind), choice.target)
            yield
        finally:
            stack.down()
            for name in list(kubelet.pods):
                kubelet.delete(name)


def executor_variables(settings: Settings, kubernetes: str, folder: Path) -> dict[str, str]:
    """Return the variables by which a scheduler makes the pods of the template in this Kubernetes."""
    template, access = folder / "pod_template_file.yaml", folder / "kubeconfig"
    template.write_text(yaml.safe_dump(replace_words(read_pod(), settings)))
    access.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "nobody"}}],
                "clusters": [{"name": "here", "cluster": {"server": kubernetes}}],
                "users": [{"name": "nobody", "user": {}}],
            }
        )
    )
    values = read_values("kubernetes")["config"]["kubernetes_executor"]
    options = {"in_cluster": False, "config_file": access, "namespace": "airlock", "pod_template_file": template}
    return {
        "AIRFLOW__CORE__EXECUTOR": read_values("kubernetes")["executor"],
        "PYTHONPATH": str(ROOT / "include"),
        **{f"AIRFLOW__KUBERNETES_EXECUTOR__{name.upper()}": str(value) for name, value in (values | options).items()},
    }


def upgrade_ledger(cluster: Cluster) -> None:
    ((job,),) = [found for name, found in read_manifests().items() if name == "ledger-upgrade.yaml"]
    done = run_pod(cluster.node, json.loads(json.dumps(job["spec"]["template"])))
    assert done.returncode == 0, done.stderr
    assert "the ledger is at schema" in done.stdout


def test_the_job_upgrades_the_ledger_and_may_be_repeated(cluster: Cluster) -> None:
    upgrade_ledger(cluster)
    upgrade_ledger(cluster)


def test_a_pod_may_write_its_volumes_and_reach_its_doors_and_nothing_else(cluster: Cluster) -> None:
    asked = """
import os, pathlib, socket, sys
def tried(what):
    try:
        what()
    except OSError as error:
        return type(error).__name__
    return "yes"
for folder in ("/", "/opt/airflow", "/opt/airflow/dags", "/opt/airflow/pipelines", "/home/airflow", "/var/tmp", "/dev",
               "/tmp", "/spool", "/opt/airflow/logs"):
    print("write", folder, tried(lambda: pathlib.Path(folder, "a file").write_text("x")) == "yes")
for host, port in [("127.0.0.1", int(port)) for port in sys.argv[1:]] + [("127.0.0.1", 22), ("198.51.100.1", 443)]:
    print("reach", host, port, tried(lambda: socket.create_connection((host, port), 5).close()) == "yes")
print("user", os.getuid(), os.getgid())
"""
    ports = [cluster.settings.api_port, cluster.settings.s3_port, cluster.settings.health_port]
    done = cluster.run("python", "-c", asked, *map(str, ports))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    written = {line.split()[1] for line in lines if line.startswith("write") and line.endswith("True")}
    assert written == {"/tmp", "/spool", "/opt/airflow/logs"}
    reached = {int(line.split()[2]) for line in lines if line.startswith("reach") and line.endswith("True")}
    assert reached == set(ports)
    assert lines[-1] == "user 50000 0"


def test_the_sample_goes_through_in_pods(cluster: Cluster) -> None:
    upgrade_ledger(cluster)
    settings, choice = cluster.settings, cluster.choice
    with AirflowApi(settings.api_url, USER, read_secrets(settings).password) as api:
        api.log_in()
        for pool in choice.pools(settings.parallelism):
            api.make_pool(pool.name, pool.slots, pool.description)
        await_dag(api, choice, settings)
        api.unpause(PIPELINE)
        run = api.trigger(PIPELINE, {"prefix": choice.target.key})
        until("the run ends", lambda: api.run_state(PIPELINE, run) in {"success", "failed"}, PATIENCE)
        tasks = api.task_instances(PIPELINE, run)
        assert api.run_state(PIPELINE, run) == "success", [(one["task_id"], one["state"]) for one in tasks]
    client = local_client(settings.s3_url)
    key = f"runs/{PIPELINE}/{run_key(PIPELINE, run)}/audit/report.json"
    report = json.loads(client.get_object(Bucket="airlock-workspace", Key=key)["Body"].read())
    assert report["balanced"] is True
    assert {name: count for name, count in report["dispositions"].items() if count} == AFTER_THE_SAMPLE
    # Every task had a pod of its own, which held no key of Airflow's and left its log on S3.
    assert len(cluster.kubelet.made) >= len(
        {(one["task_id"], one["map_index"]) for one in tasks if one["state"] == "success"}
    )
    for pod in cluster.kubelet.made:
        text = json.dumps(pod["spec"]["containers"][0]["env"])
        assert "SQL_ALCHEMY" not in text
        assert "FERNET" not in text
        assert "JWT" not in text
    assert client.list_objects_v2(Bucket="airlock-workspace", Prefix="task-logs/").get("KeyCount", 0) > 0
    print(f"{len(cluster.kubelet.made)} pods, {len(tasks)} task instances")  # noqa: T201  (the figures of the proof)
