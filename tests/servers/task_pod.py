"""Makes a task's pod of a template as the KubernetesExecutor does, in an environment of requirements-kubernetes.lock.

``python -m tests.servers.task_pod TEMPLATE`` writes the pod to standard output.
"""

from __future__ import annotations

import json
import sys

from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from kubernetes.client import ApiClient


def main() -> None:
    """Print the pod of a task without a name."""
    pod = PodGenerator.construct_pod(
        dag_id="nightly",
        task_id="parse",
        pod_id="nightly-parse-1",
        try_number=1,
        kube_image=None,  # type: ignore[arg-type]  # as where [kubernetes_executor] names none
        date=None,
        args=["python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string", "{}"],
        pod_override_object=None,
        base_worker_pod=PodGenerator.deserialize_model_file(sys.argv[1]),
        namespace="airlock",
        scheduler_job_id="1",
        run_id="manual",
        with_mutation_hook=True,
    )
    sys.stdout.write("\n" + json.dumps(ApiClient().sanitize_for_serialization(pod)))


if __name__ == "__main__":
    main()
