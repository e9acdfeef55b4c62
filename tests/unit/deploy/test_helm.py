"""deploy/helm: values that the chart takes, pods with what their tasks need and no more, and Compose's Airlock."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from airflow.configuration import conf

from airlock.pipelines import load_pipelines
from airlock_local.settings import ROOT
from airlock_local.stores import pools_of
from tests.helm_values import EXECUTORS, RELEASE, merge, read_manifests, read_pod, read_values

CHART = yaml.safe_load(Path(__file__).with_name("airflow-chart-1.22.0.schema.yaml").read_text())
PAGE = (ROOT / "docs/helm.md").read_text()
SECRETS = {"airlock-metadata", "airlock-fernet-key", "airlock-api-secret-key", "airlock-jwt-secret", "airlock-ledger"}


@pytest.fixture(params=EXECUTORS)
def values(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read_values(request.param)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"])


def job() -> dict[str, Any]:
    ((manifest,),) = [found for name, found in read_manifests().items() if name == "ledger-upgrade.yaml"]
    return dict(manifest)


def pods() -> dict[str, dict[str, Any]]:
    return {"task": read_pod()["spec"], "ledger-upgrade": job()["spec"]["template"]["spec"]}


def policies(*files: str) -> list[dict[str, Any]]:
    return [policy for name in files for policy in read_manifests()[name]]


def selects(policy: dict[str, Any], component: str) -> bool:
    selector = policy["spec"]["podSelector"]
    assert selector["matchLabels"].items() >= {"tier": "airflow", "release": RELEASE}.items()
    named = selector["matchLabels"].get("component")
    listed = [item for one in selector.get("matchExpressions", []) for item in one["values"]]
    return component == named or component in listed or not (named or listed)


def reaches(component: str, *files: str) -> set[Any]:
    """Return the ports that a component may reach."""
    found = [policy for policy in policies(*files) if selects(policy, component)]
    return {port["port"] for policy in found for rule in policy["spec"]["egress"] for port in rule["ports"]}


class TestTheChart:
    def test_it_takes_the_values_of_each_executor(self, values: dict[str, Any]) -> None:
        jsonschema.Draft7Validator.check_schema(CHART)
        jsonschema.validate(values, CHART, jsonschema.Draft7Validator)

    @pytest.mark.parametrize(
        "wrong", [{"sheduler": {}}, {"executor": "celery"}, {"env": [{"name": "A", "value": 1}]}, {"uid": "50000"}]
    )
    def test_it_refuses_others(self, values: dict[str, Any], wrong: dict[str, Any]) -> None:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(merge(values, wrong), CHART, jsonschema.Draft7Validator)

    def test_the_page_and_the_values_name_the_version_of_the_schema(self) -> None:
        assert "--version 1.22.0" in (ROOT / "deploy/helm/values.yaml").read_text()
        assert "--version 1.22.0" in PAGE

    def test_airflow_knows_every_option(self, values: dict[str, Any]) -> None:
        known = conf.configuration_description
        for section, options in values["config"].items():
            if section not in {"fab", "celery", "kubernetes_executor"}:  # of providers that the tests do not install
                assert set(options) <= set(known[section]["options"]), section

    def test_it_installs_no_server_of_its_own_and_makes_no_password(self, values: dict[str, Any]) -> None:
        off = ("postgresql", "redis", "statsd", "createUserJob")
        assert not [name for name in off if values[name]["enabled"]]

    def test_its_policy_lets_tasks_reach_the_api_server(self, values: dict[str, Any]) -> None:
        peers = values["apiServer"]["networkPolicy"]["ingress"]["from"]
        assert {"podSelector": {"matchLabels": {"tier": "airflow", "release": RELEASE, "component": "worker"}}} in peers
        assert values["config"]["core"]["execution_api_server_url"] == f"http://{RELEASE}-api-server:8080/execution/"
        assert values["fullnameOverride"] == RELEASE
        assert values["useStandardNaming"]


class TestAPod:
    @pytest.mark.parametrize("name", ["task", "ledger-upgrade"])
    def test_it_may_do_nothing_as_nobody(self, name: str) -> None:
        pod = pods()[name]
        (container,) = pod["containers"]
        for executor in EXECUTORS:  # as the chart's own pods
            shared = read_values(executor)["securityContexts"]
            assert pod["securityContext"] == shared["pod"]
            assert container["securityContext"] == shared["containers"]
        assert pod["securityContext"].items() >= {"runAsNonRoot": True, "runAsUser": 50000}.items()
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["automountServiceAccountToken"] is False

    @pytest.mark.parametrize("name", ["task", "ledger-upgrade"])
    def test_every_volume_is_mounted_once_and_has_a_limit(self, name: str) -> None:
        pod = pods()[name]
        (container,) = pod["containers"]
        mounted = sorted(mount["name"] for mount in container["volumeMounts"])
        assert mounted == sorted(one["name"] for one in pod["volumes"])
        assert all("configMap" in one or "sizeLimit" in one["emptyDir"] for one in pod["volumes"])
        assert {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")} <= {
            *("/tmp", "/spool", "/opt/airflow/logs")
        }

    def test_a_task_has_no_way_to_airflows_database_or_keys(self) -> None:
        (container,) = read_pod()["spec"]["containers"]
        asked = {one["valueFrom"]["secretKeyRef"]["name"] for one in container["env"] if "valueFrom" in one}
        assert asked == {"airlock-ledger"}
        assert not [one for one in container["env"] if "SQL_ALCHEMY" in one["name"] or "JWT" in one["name"]]
        assert 5432 in reaches("worker", "network-policy.yaml")  # the ledger
        named = {one["metadata"]["name"]: one for one in policies("network-policy.yaml")}
        assert not selects(named["airlock-to-airflow-database"], "worker")

    def test_a_task_and_a_worker_have_what_the_other_containers_have(self) -> None:
        (container,) = read_pod()["spec"]["containers"]
        plain = {one["name"]: one["value"] for one in container["env"] if "value" in one}
        for one in read_values("kubernetes")["env"]:
            assert plain[one["name"]] == one["value"]
        assert plain["AIRFLOW__CORE__EXECUTOR"] == read_values("kubernetes")["executor"]
        celery = {one["name"]: one["value"] for one in read_values("celery")["workers"]["celery"]["env"]}
        assert plain["TMPDIR"] == celery["TMPDIR"] == "/spool"

    def test_its_service_account_has_the_role_of_the_workers(self) -> None:
        account = read_values("kubernetes")["workers"]["kubernetes"]["serviceAccount"]
        assert read_pod()["spec"]["serviceAccountName"] == account["name"]
        celery = read_values("celery")["workers"]["celery"]["serviceAccount"]
        role = "eks.amazonaws.com/role-arn"
        assert account["annotations"][role] == celery["annotations"][role]
        assert account["annotations"][role] == read_values("celery")["triggerer"]["serviceAccount"]["annotations"][role]

    def test_only_the_launcher_of_pods_talks_to_kubernetes(self) -> None:
        components = ("scheduler", "dagProcessor", "triggerer", "apiServer", "migrateDatabaseJob")
        mounting = {
            executor: {
                name
                for name in components
                if read_values(executor)[name]["serviceAccount"]["automountServiceAccountToken"]
            }
            for executor in EXECUTORS
        }
        assert mounting == {"celery": set(), "kubernetes": {"scheduler", "apiServer"}}
        assert not read_values("celery")["allowPodLaunching"]

    def test_its_spool_holds_a_gigabyte_per_million_arrivals_of_the_delivery_that_the_page_names(self) -> None:
        (millions,) = re.findall(r"deliveries of up to (\d+) million arrivals", PAGE)
        for volumes, container in (
            (read_pod()["spec"]["volumes"], read_pod()["spec"]["containers"][0]),
            (read_values("celery")["workers"]["celery"]["extraVolumes"], read_values("celery")["workers"]["celery"]),
        ):
            (spool,) = [one["emptyDir"]["sizeLimit"] for one in volumes if one["name"] == "spool"]
            assert gibibytes(spool) * 2**30 >= int(millions) * 1e9
            limits = container["resources"]["limits"], container["resources"]["requests"]
            assert all(gibibytes(one["ephemeral-storage"]) > gibibytes(spool) for one in limits)


def gibibytes(size: str) -> int:
    assert size.endswith("Gi")
    return int(size.removesuffix("Gi"))


class TestTheNetwork:
    def test_every_pod_begins_with_names_only(self) -> None:
        first = policies("network-policy.yaml")[0]
        assert first["spec"]["podSelector"] == {"matchLabels": {"tier": "airflow", "release": RELEASE}}
        assert {port["port"] for rule in first["spec"]["egress"] for port in rule["ports"]} == {53}

    @pytest.mark.parametrize("files", [(name, policy) for name, found in read_manifests().items() for policy in found])
    def test_a_policy_names_whom_and_where(self, files: tuple[str, dict[str, Any]]) -> None:
        _, manifest = files
        if manifest["kind"] == "NetworkPolicy":
            assert manifest["spec"]["policyTypes"] == ["Egress"]
            for rule in manifest["spec"]["egress"]:
                assert rule["to"]
                assert rule["ports"]
                assert "0.0.0.0/0" not in str(rule)

    @pytest.mark.parametrize(
        ("component", "celery", "kubernetes"),
        [
            ("worker", {53, 8080, 5432, 443, 6379}, {53, 8080, 5432, 443}),
            ("scheduler", {53, 5432, 6379}, {53, 5432, 443}),
            ("dag-processor", {53, 5432}, {53, 5432}),
            ("triggerer", {53, 5432, 443}, {53, 5432, 443}),
            ("api-server", {53, 5432, 443, 8793, 8794}, {53, 5432, 443, 8794}),
            ("run-airflow-migrations", {53, 5432}, {53, 5432}),
            ("ledger-upgrade", {53, 5432}, {53, 5432}),
            ("airflow-cleanup-pods", {53, 5432}, {53, 5432, 443}),
        ],
    )
    def test_a_component_reaches_what_it_needs(self, component: str, celery: set[int], kubernetes: set[int]) -> None:
        assert reaches(component, "network-policy.yaml", "network-policy-celery.yaml") == celery
        assert reaches(component, "network-policy.yaml", "network-policy-kubernetes.yaml") == kubernetes


class TestTheSameAsCompose:
    def test_pools_are_made_where_they_are_not_there(self, values: dict[str, Any]) -> None:
        pipelines, _ = load_pipelines(ROOT / "include/pipelines")
        script = values["migrateDatabaseJob"]["args"][-1]
        made = set(re.findall(r'^add_pool (\S+) (\d+) "(.+)"$', script, re.MULTILINE))
        assert made == {
            (pool.name, str(pool.slots), pool.description) for pool in pools_of(pipelines.values(), parallelism=16)
        }
        assert 'airflow pools get "$1" > /dev/null 2>&1 || airflow pools set' in script
        assert "--include-deferred" in script
        assert "airflow db migrate" in script

    def test_the_ledger_is_upgraded_by_the_same_command(self, compose: dict[str, Any]) -> None:
        (container,) = pods()["ledger-upgrade"]["containers"]
        assert " ".join(container["args"]) == "python -m airlock.ledger upgrade"
        assert any(" ".join(container["args"]) in " ".join(one.get("command", ())) for one in compose.values())
        assert "AIRLOCK_LEDGER_URL" in compose["scheduler"]["environment"]
        (asked,) = container["env"]
        (secret,) = read_values("celery")["secret"]
        assert asked["name"] == secret["envName"] == "AIRLOCK_LEDGER_URL"
        owner = f"{secret['secretName']}-owner"  # the tables' owner, whom no task has
        assert asked["valueFrom"]["secretKeyRef"] == {"name": owner, "key": secret["secretKey"]}

    def test_paths_are_those_of_the_image(self, values: dict[str, Any]) -> None:
        image = (ROOT / "Dockerfile").read_text()
        (pipelines,) = [one["value"] for one in values["env"] if one["name"] == "AIRLOCK_PIPELINES"]
        assert f"AIRLOCK_PIPELINES={pipelines}" in image
        assert {"name": "pipelines", "mountPath": pipelines, "readOnly": True} in values["volumeMounts"]
        config_file = values["config"]["fab"]["config_file"]
        assert f"COPY deploy/fab {Path(config_file).parent}" in image
        assert (ROOT / "deploy/fab" / Path(config_file).name).is_file()
        assert "FROM airlock-fab AS airlock-kubernetes" in image

    def test_every_part_runs_the_same_image_of_this_version(self, values: dict[str, Any]) -> None:
        (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        image = f"{values['images']['airflow']['repository']}:{version}"
        assert values["images"]["airflow"]["tag"] == version
        assert {pod["containers"][0]["image"] for pod in pods().values()} == {image}
        (airflow,) = re.findall(r"^apache-airflow==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
        assert values["airflowVersion"] == airflow

    def test_celery_workers_load_what_tasks_need_before_they_fork(self, compose: dict[str, Any]) -> None:
        name = "AIRFLOW__CELERY__EXTRA_CELERY_CONFIG"
        (given,) = [one["value"] for one in read_values("celery")["workers"]["celery"]["env"] if one["name"] == name]
        for config in (given, compose["worker-1"]["environment"][name]):
            assert "airlock_tasks.preload" in json.loads(config)["imports"]

    def test_fewer_batches_are_staged_than_tasks_run(self) -> None:
        values = read_values("celery")
        script = values["migrateDatabaseJob"]["args"][-1]
        (staging,) = re.findall(r"add_pool airlock_staging (\d+)", script)
        assert int(staging) < values["config"]["celery"]["worker_concurrency"] * values["workers"]["celery"]["replicas"]


class TestNoSecret:
    def test_no_file_has_one(self) -> None:
        for path in sorted((ROOT / "deploy/helm").glob("*.yaml")):
            text = path.read_text()
            assert not re.search(r"(?i)password: *\S|aws_secret|://[^/\s]*:[^/\s]*@", text), path.name

    def test_the_page_has_a_command_for_each_that_the_values_name(self, values: dict[str, Any]) -> None:
        named = {values["data"]["metadataSecretName"], values["secret"][0]["secretName"]}
        named |= {values[f"{name}SecretName"] for name in ("fernetKey", "apiSecretKey")} | {values["jwtSecretName"]}
        assert named == SECRETS
        others = {read_values("celery")["data"]["brokerUrlSecretName"], "airlock-pipelines", "airlock-ledger-owner"}
        for name in named | others:
            assert re.search(rf"kubectl create \S+ (generic )?{name} --from-file", PAGE), name

    def test_the_page_says_which_words_to_replace(self) -> None:
        files = "".join(path.read_text() for path in sorted((ROOT / "deploy/helm").glob("*.yaml")))
        capitals = {"REGION", "LOG_BUCKET", "ACCOUNT_ID", "WORKER_ROLE", "CONSOLE_ROLE", "INGRESS_NAMESPACE"}
        for word in capitals:
            assert word in files
            assert f"`{word}`" in PAGE, word
