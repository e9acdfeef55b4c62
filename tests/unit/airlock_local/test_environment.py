import json
import os
import stat

import boto3
import pytest

from airlock_local.environment import airflow_variables, inherited, local_connection, read_secrets
from airlock_local.settings import read_settings

MINE = {
    "PATH": "/usr/bin",
    "AWS_PROFILE": "production",
    "AWS_ACCESS_KEY_ID": "AKIAREAL",
    "AWS_ENDPOINT_URL": "https://elsewhere.example",
    "AIRFLOW_HOME": "/other",
    "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
    "AIRFLOW_CONN_MY_ACCOUNT": '{"conn_type": "aws"}',
    "SOURCE": "/data",
}


@pytest.fixture
def settings(tmp_path):
    return read_settings({"AIRLOCK_VAR": str(tmp_path)})


def test_nothing_of_a_real_account_reaches_a_local_stack():
    kept = inherited(MINE, account=False)
    assert "production" not in kept.values()
    assert "AKIAREAL" not in kept.values()
    assert "AWS_ENDPOINT_URL" not in kept
    assert kept["AWS_SHARED_CREDENTIALS_FILE"] == os.devnull
    assert kept["AWS_EC2_METADATA_DISABLED"] == "true"


def test_the_callers_credentials_are_kept_for_a_pipeline_on_an_account():
    kept = inherited(MINE, account=True)
    assert kept["AWS_PROFILE"] == "production"
    assert kept["AIRFLOW_CONN_MY_ACCOUNT"] == MINE["AIRFLOW_CONN_MY_ACCOUNT"]


def test_another_airflows_settings_are_left_out():
    kept = inherited(MINE, account=True)
    assert not {"AIRFLOW_HOME", "AIRFLOW__CORE__EXECUTOR", "SOURCE"} & set(kept)


def test_the_local_connection_names_the_local_servers_only(settings):
    extra = json.loads(local_connection(settings))["extra"]
    assert extra["endpoint_url"] == "http://127.0.0.1:4566"
    local = {"endpoint_url": "http://127.0.0.1:4567"}
    assert extra["service_config"] == {"medical-imaging": local, "healthlake": local}
    assert extra["config_kwargs"]["inject_host_prefix"] is False


def test_the_callers_aws_default_is_overridden(settings):
    mine = inherited(MINE | {"AIRFLOW_CONN_AWS_DEFAULT": "aws://"}, account=True)
    together = mine | airflow_variables(settings, read_secrets(settings))
    assert together["AIRFLOW_CONN_AWS_DEFAULT"] == local_connection(settings)


def test_everything_listens_and_talks_on_loopback(settings):
    variables = airflow_variables(settings, read_secrets(settings))
    assert variables["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert variables["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:8080/execution/"


def test_secrets_are_made_once_and_only_their_owner_reads_them(settings):
    assert read_secrets(settings) == read_secrets(settings)
    for path in settings.airflow_home.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_stacks_have_different_passwords(settings, tmp_path):
    other = read_settings({"AIRLOCK_VAR": str(tmp_path / "other")})
    assert read_secrets(settings).password != read_secrets(other).password


def test_boto3_finds_the_placeholder_credentials_and_no_others(settings, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in inherited(dict(os.environ), account=False).items():
        monkeypatch.setenv(name, value)
    assert boto3.Session().get_credentials().access_key == "airlock-local"
