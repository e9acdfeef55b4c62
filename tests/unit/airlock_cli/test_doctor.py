"""``airlock doctor`` as a person calls it, on the servers of the local stack."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import SSLError

from airlock.pipelines import load_pipelines
from airlock.stages.doctor.airflow_settings import HIDDEN
from airlock.storage.s3uri import S3Uri
from airlock_cli.airflow_connections import GivenConnection
from airlock_cli.airflow_deployment import Deployment
from airlock_cli.aws_access import ConnectionAccess
from airlock_cli.errors import RequestError
from airlock_local.buckets import buckets_of, local_client, make_buckets
from airlock_local.environment import Secrets, airflow_variables, cli_variables, inherited
from airlock_local.settings import Settings
from airlock_local.stores import pools_of, seeds_of
from localaws.server import serve
from localaws.settings import Seed
from tests.markdown import ROOT
from tests.servers.faulty_s3 import faulty_s3
from tests.servers.ledger import new_ledger
from tests.servers.moto import reset_moto
from tests.servers.network import certify_loopback, forward_proxy
from tests.servers.serving import QuietHandler, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from typer.testing import Result

NAME = "sample"
_SECRETS = Secrets(*(f"CANARY{name}".ljust(64, "-") for name in ("fernet", "jwt", "secret", "password")))
_FIELDS = {
    "--datastore": "datastore",
    "--healthlake-datastore": "healthlake_datastore",
    "--transformation-profile": "transformation_profile",
}


class Api(QuietHandler):
    """Airflow's REST API as far as the doctor asks it."""

    pools: Mapping[str, dict[str, Any]]
    connections: Mapping[str, dict[str, Any]]
    paused: frozenset[str] = frozenset()  # DAGs

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(201, json.dumps({"access_token": "token"}))

    def do_GET(self) -> None:
        _, kind, name = self.path.rsplit("/", 2)
        dags = {name: {"is_paused": name in self.paused}}
        found = {"pools": self.pools, "connections": self.connections, "dags": dags}[kind].get(name)
        if self.headers["Authorization"] != "Bearer token":
            self.answer(401, "{}")
        elif found is None:
            self.answer(404, "{}")
        else:
            self.answer(200, json.dumps(found))


@pytest.fixture(scope="module")
def health(s3_server: str) -> Iterator[str]:
    """The local HealthImaging and HealthLake with the data stores of the shipped pipelines."""
    seeds: dict[str, list[Seed]] = {}
    for flag, _, value in (
        one.partition("=") for one in seeds_of(load_pipelines(ROOT / "include/pipelines")[0].values())
    ):
        if flag in _FIELDS:
            seeds.setdefault(_FIELDS[flag], []).append(Seed.read(value))
    with serve(s3_endpoint=s3_server, **{name: tuple(found) for name, found in seeds.items()}) as url:
        yield url


@pytest.fixture
def pools() -> dict[str, dict[str, Any]]:
    """The pools that `make run` makes."""
    pipelines, _ = load_pipelines(ROOT / "include/pipelines")
    return {one.name: {"slots": one.slots, "include_deferred": True} for one in pools_of(pipelines.values(), 4)}


@pytest.fixture
def stack(
    s3_server: str, health: str, pools: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """The environment of ``make cli``, and the servers that it names; gives the client of the local S3."""
    reset_moto(s3_server)
    pipelines, _ = load_pipelines(ROOT / "include/pipelines")
    s3 = local_client(s3_server)
    make_buckets(s3, buckets_of(pipelines.values()))
    for one in pipelines.values():
        source = S3Uri.parse(one.source.uri)
        s3.put_object(Bucket=source.bucket, Key=f"{source.key}1", Body=b"")
    (tmp_path / "ledger.db").touch(mode=0o600)
    new_ledger(tmp_path / "ledger.db")
    with serving(Api, pools=pools, connections={"aws_default": {"conn_type": "aws"}}) as api:
        ports = {"s3_port": s3_server, "health_port": health, "api_port": api}
        numbers = {name: int(url.rpartition(":")[2]) for name, url in ports.items()}
        settings = Settings(var=tmp_path, pipelines=ROOT / "include/pipelines", dags=ROOT / "dags", **numbers)
        made = inherited({}, account=False) | airflow_variables(settings, _SECRETS) | cli_variables(settings, _SECRETS)
        for name, value in made.items():
            monkeypatch.setenv(name, value)
        yield s3


def findings(result: Result) -> dict[str, dict[str, str]]:
    (one,) = json.loads(result.stdout)["pipelines"]
    return {f"{row['check']} {row['about']}": row for row in one["checks"]}


def not_passed(result: Result) -> dict[str, str]:
    return {name: row["result"] for name, row in findings(result).items() if row["result"] in {"warn", "fail"}}


def test_a_healthy_local_stack_raises_no_alarm(stack: Any, airlock: Callable[..., Result]) -> None:
    result = airlock("doctor", NAME, "--json")
    assert not_passed(result) == {}
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["schema"] == "airlock.doctor/1"
    assert answer["pipelines"][0]["counts"]["pass"] > 45


def test_the_table_shows_the_gravest_first_and_what_was_not_checked(
    stack: Any, airlock: Callable[..., Result], pools: dict[str, dict[str, Any]]
) -> None:
    del pools["healthlake_import"]
    pools["healthimaging_import"]["include_deferred"] = False
    result = airlock("doctor", NAME)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{NAME}: ")
    rows = [line.split()[:3] for line in lines if line.startswith(("fail", "warn", "pass"))]
    assert rows[:2] == [
        ["fail", "pool.exists", "healthlake_import"],
        ["warn", "pool.exists", "healthimaging_import"],
    ]
    assert "airflow pools set healthlake_import" in result.stdout
    assert "not checked" in lines
    assert "The local stack checks no rights." in result.stdout


def test_warnings_alone_are_exit_status_0(
    stack: Any, airlock: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRLOCK_API_URL")
    result = airlock("doctor", NAME, "--json")
    assert set(not_passed(result).values()) == {"warn"}
    assert result.exit_code == 0
    assert "AIRLOCK_API_URL is not set" in findings(result)["pool.exists airlock_staging"]["found"]


def test_a_connection_whose_secrets_cannot_be_read_is_a_warning(
    stack: Any, airlock: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_AWS_DEFAULT")
    result = airlock("doctor", NAME, "--json")
    assert not_passed(result) == {"connection.defined aws_default": "warn"}
    assert "the credentials of this environment" in findings(result)["connection.defined aws_default"]["found"]


def test_an_api_that_refuses_the_login_is_a_warning(
    stack: Any, airlock: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRLOCK_API_TOKEN", "another")
    result = airlock("doctor", NAME, "--json")
    assert {name.partition(" ")[0] for name in not_passed(result)} == {"pool.exists", "airflow.dag"}
    assert set(not_passed(result).values()) == {"warn"}


def test_a_lost_bucket_is_exit_status_1(stack: Any, airlock: Callable[..., Result]) -> None:
    stack.delete_bucket(Bucket="airlock-output")
    result = airlock("doctor", NAME, "--json")
    assert result.exit_code == 1
    assert list(not_passed(result)) == [
        "bucket.exists airlock-output (healthimaging.output_uri, healthlake.output_uri)"
    ]


def test_no_key_prefix_rule_or_secret_is_shown(stack: Any, airlock: Callable[..., Result]) -> None:
    stack.put_object(Bucket="airlock-archive", Key="deliveries/CANARY^JANE/1.dcm", Body=b"CANARY")
    rule = {"ID": "CANARY", "Status": "Enabled", "Filter": {"Prefix": "runs/CANARY"}, "Expiration": {"Days": 1}}
    whole = rule | {"ID": "all", "Filter": {"Prefix": ""}}
    stack.put_bucket_lifecycle_configuration(
        Bucket="airlock-workspace", LifecycleConfiguration={"Rules": [rule, whole]}
    )
    for arguments in (("doctor", NAME), ("doctor", NAME, "--json")):
        result = airlock(*arguments)
        assert result.exit_code == 1
        shown = result.stdout + result.stderr
        for secret in (
            "CANARY",
            "deliveries/",
            "runs/",
            *(getattr(_SECRETS, name) for name in ("fernet_key", "password")),
        ):
            assert secret not in shown.replace("AIRLOCK_API_PASSWORD", ""), secret


def test_without_a_name_all_pipelines_are_examined(stack: Any, airlock: Callable[..., Result]) -> None:
    result = airlock("doctor", "--json")
    found = json.loads(result.stdout)["pipelines"]
    names = {path.stem for path in (ROOT / "include/pipelines").glob("*.yaml")}
    assert {one["pipeline"] for one in found} == names
    failed = {one["pipeline"] for one in found if one["counts"]["fail"]}
    assert failed == {"arrivals", "edge"}, "only make demo-arrivals and make demo-edge make their queues"


class TestWrongPipelineFiles:
    """Without a name the doctor speaks of the files that no pipeline comes from."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "pipelines"
        folder.mkdir()
        monkeypatch.setenv("AIRLOCK_PIPELINES", str(folder))
        return folder

    @pytest.mark.parametrize(
        "content", ["kind: imaging\nname: CANARY JANE\nbogus: CANARY\n", "CANARY: [", "- CANARY\n"]
    )
    def test_a_wrong_file_is_exit_status_1_and_its_values_are_not_repeated(
        self, folder: Path, airlock: Callable[..., Result], content: str
    ) -> None:
        (folder / "night.yaml").write_text(content)
        result = airlock("doctor", "--json")
        assert result.exit_code == 1
        assert not_passed(result) == {"pipeline.file night.yaml": "fail"}
        assert "airlock pipelines check" in findings(result)["pipeline.file night.yaml"]["fix"]
        table = airlock("doctor")
        assert table.exit_code == 1
        assert "pipeline files: 0 pass, 0 warn, 1 fail" in table.stdout
        assert "CANARY" not in result.stdout + result.stderr + table.stdout + table.stderr

    def test_it_stands_before_what_was_found_of_the_others(
        self, stack: Any, folder: Path, airlock: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRLOCK_PIPELINES", str(folder))  # not that of the stack
        (folder / "sample.yaml").write_bytes((ROOT / "include/pipelines/sample.yaml").read_bytes())
        (folder / "wrong.yaml").write_text("- a list")
        result = airlock("doctor", "--json")
        assert result.exit_code == 1
        wrong, sample = json.loads(result.stdout)["pipelines"]
        assert (wrong["pipeline"], wrong["counts"]["fail"]) == ("pipeline files", 1)
        assert (sample["pipeline"], sample["counts"]["fail"]) == (NAME, 0)
        assert airlock("doctor", NAME, "--json").exit_code == 0

    def test_files_that_contradict_each_other_are_wrong_too(self, folder: Path, airlock: Callable[..., Result]) -> None:
        for name in ("one", "two"):
            (folder / f"{name}.yaml").write_bytes((ROOT / "include/pipelines/sample.yaml").read_bytes())
        result = airlock("doctor", "--json")
        assert result.exit_code == 1
        assert not_passed(result) == {"pipeline.file several files": "fail"}

    def test_a_folder_without_files_is_exit_status_1(self, folder: Path, airlock: Callable[..., Result]) -> None:
        result = airlock("doctor", "--json")
        assert result.exit_code == 1
        assert not_passed(result) == {"pipeline.file AIRLOCK_PIPELINES": "fail"}


def test_an_unknown_pipeline_is_a_wrong_request(stack: Any, airlock: Callable[..., Result]) -> None:
    result = airlock("doctor", "sampel")
    assert result.exit_code == 2
    assert "sample" in result.stderr


class TestAnOutsidersFaults:
    """Mistakes that somebody who had not read the doctor's code made in its environment, on the local stack."""

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            pytest.param(
                "{conn_type: aws, password: CANARYCANARY, extra: {region_name: us-east-1}}",
                "AIRFLOW_CONN_AWS_DEFAULT is neither a JSON object nor an address.",
                id="the shell took the quotes",
            ),
            pytest.param(
                """'{"conn_type": "aws", "login": "CANARY", "password": "CANARYCANARY"}'""",
                "AIRFLOW_CONN_AWS_DEFAULT is neither a JSON object nor an address.",
                id="the env file kept the quotes",
            ),
            pytest.param(
                '{"conn_type": "aws", "password": "CANARYCANARY", "extra": {"region_name": "us-east-1"}}',
                "It has half of an access key",
                id="no id of the key",
            ),
            pytest.param(
                '{"conn_type": "amazon", "password": "CANARYCANARY"}', "Its type is 'amazon', not aws.", id="type"
            ),
            pytest.param(
                '{"conn_type": "aws", "extra": {"service_config": {"s3": {"endpoint_url": "CANARY:9000"}}}}',
                "An endpoint_url of it has no scheme.",
                id="no scheme",
            ),
        ],
    )
    def test_a_connection_that_airflow_cannot_use_fails_by_itself(
        self,
        text: str,
        told: str,
        stack: Any,
        airlock: Callable[..., Result],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", text)
        result = airlock("doctor", NAME, "--json")
        assert result.exit_code == 1
        name = "connection.defined aws_default"
        assert not_passed(result) == {name: "fail"}
        assert told in findings(result)[name]["found"]
        assert findings(result)[name]["fix"]
        assert "CANARY" not in result.stdout + result.stderr

    def test_an_endpoint_that_boto3_cannot_take(
        self, stack: Any, airlock: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No check knows this mistake: each that meets it says so, and the others are made."""
        given = json.dumps({"conn_type": "aws", "extra": {"endpoint_url": "http://CANARY bucket:9000"}})
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", given)
        result = airlock("doctor", NAME, "--json")
        assert result.exit_code == 1
        found = findings(result)
        assert not_passed(result)["identity.caller aws_default"] == "fail"
        assert "could not be made: ValueError in line" in found["identity.caller aws_default"]["found"]
        assert found["ledger.schema ledger"]["result"] == "pass"
        assert "CANARY" not in result.stdout + result.stderr

    def test_a_password_of_the_ledger_that_was_not_encoded(
        self, stack: Any, airlock: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_AIRLOCK_LEDGER", "postgresql://airlock:CAN/#ARY@db/airlock")
        result = airlock("doctor", NAME, "--json")
        assert not_passed(result) == {"ledger.reachable ledger": "fail"}
        assert "AIRFLOW_CONN_AIRLOCK_LEDGER" in findings(result)["ledger.reachable ledger"]["found"]
        assert "ARY" not in (result.stdout + result.stderr).replace("LIBRARY", "")

    def test_a_dag_that_nobody_switched_on(
        self, stack: Any, airlock: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Api, "paused", frozenset({NAME}))
        assert not_passed(airlock("doctor", NAME, "--json")) == {f"airflow.dag {NAME}": "warn"}

    def test_a_tmpdir_that_does_not_exist(
        self, stack: Any, airlock: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
        result = airlock("doctor", NAME, "--json")
        assert not_passed(result) == {"machine.temporary_space TMPDIR": "fail"}


class TestSettings:
    """Settings of Airflow, by its environment and its file."""

    def test_the_environment_wins_over_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "airflow.cfg").write_text("[core]\nexecutor = FromFile\nmax_map_length = 5\nfernet_key_cmd = x\n")
        monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
        monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "FromEnvironment")
        monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET_CMD", "cat secret")
        found = Deployment()
        assert found.has_settings
        assert found.option("core", "executor") == "FromEnvironment"
        assert found.option("core", "max_map_length") == "5"
        assert found.option("core", "parallelism") is None
        assert found.option("core", "fernet_key") == found.option("api_auth", "jwt_secret") == HIDDEN

    def test_without_airflow_there_are_none(self) -> None:
        assert not Deployment().has_settings

    def test_a_file_that_cannot_be_read_is_not_repeated(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "airflow.cfg").write_text("CANARY without a section\n")
        monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
        with pytest.raises(RequestError, match="MissingSectionHeaderError") as refused:
            Deployment()
        assert "CANARY" not in str(refused.value)


class TestAccess:
    def test_without_a_connection_boto3s_own_chain_is_used(self, stack: Any) -> None:
        access = ConnectionAccess(None)
        assert access.region == "us-east-1"
        assert access.is_local("s3")
        assert access.client("s3") is access.client("s3")

    def test_the_role_is_assumed_through_the_proxy_of_the_connection(self, tmp_path: Path) -> None:
        with forward_proxy() as proxy, faulty_s3(certify_loopback(tmp_path)[1]) as sts:
            extra = {
                "role_arn": "arn:aws:iam::123456789012:role/worker",
                "region_name": "us-east-1",
                "config_kwargs": {"proxies": {"https": proxy.url}},
                "service_config": {"sts": {"endpoint_url": sts.endpoint}},
            }
            with pytest.raises(SSLError):  # the server is reached; nobody has said that it can be trusted
                ConnectionAccess(GivenConnection("aws", "key", "secret", extra=extra)).client("s3")
            assert set(proxy.tunnels) == {sts.endpoint.removeprefix("https://")}

    def test_aws_itself_is_not_local(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        assert not ConnectionAccess(None).is_local("s3")
        assert "AWS_ENDPOINT_URL" not in os.environ
        assert boto3.Session().region_name == "eu-west-1"
