"""What a mistake looks like at the terminal: one sentence, exit status 2, nothing done."""

import os
import stat
import subprocess
import sys

import pytest

from airlock_local.__main__ import main
from airlock_local.settings import ROOT
from tests.servers.foreign import foreign_server
from tests.servers.ports import free_port

SECRETS = "var/airflow/secrets.json"


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "umask", lambda _mask: None)  # the test process keeps its own
    for name in [name for name in os.environ if name.startswith("AIRLOCK_") or name in {"SOURCE", "PIPELINE"}]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AIRLOCK_VAR", str(tmp_path / "var"))

    def run(verb, **variables):
        monkeypatch.setattr(sys, "argv", ["airlock_local", *verb.split()])
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return main(), *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"SOURCE": "/no/such/folder"}, "SOURCE=/no/such/folder does not exist"),
        ({"SOURCE": "s3://nowhere/x/"}, "is not a prefix, ending with '/', inside the source"),
        ({"SOURCE": "s3://"}, "'s3://' is not an S3 address"),
        ({"PIPELINE": "nowhere"}, "There is no pipeline 'nowhere'"),
        ({"AIRLOCK_PIPELINES": "/no/such/folder"}, "/no/such/folder is not a folder"),
        ({"AIRLOCK_API_PORT": "x"}, "AIRLOCK_API_PORT is 'x'"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_does_nothing(command, tmp_path, variables, sentence):
    status, out, err = command("run", **variables)
    assert status == 2
    assert sentence in err
    assert err.count("\n") == 1
    assert out == ""
    assert not (tmp_path / "var").exists()


@pytest.mark.parametrize(("verb", "taken"), [("run", "var"), ("stop", "var"), ("run", SECRETS), ("cli held", SECRETS)])
def test_a_folder_that_cannot_be_used_is_named_with_its_setting(command, tmp_path, verb, taken):
    """As if it were another user's, which a test that runs as root cannot have."""
    if taken == "var":
        (tmp_path / taken).touch()
    else:
        (tmp_path / taken).mkdir(parents=True)
        (tmp_path / "var/airflow/migrated").touch()
    status, _, err = command(verb)
    assert status == 2
    assert str(tmp_path / taken) in err
    assert err.count("\n") == 1
    assert err.endswith("set AIRLOCK_VAR to another folder.\n")


def test_stopping_what_does_not_run_is_no_error(command):
    assert command("stop") == (0, "Nothing to stop.\n", "")


def test_the_status_of_a_stack_that_is_not_up(command):
    """It is an answer: make would show a failed command as an error of its own."""
    assert command("status") == (0, "Nothing is running. make run starts the stack.\n", "")


@pytest.mark.parametrize(
    ("verb", "status"), [("cli pipelines check", 0), ("cli held --help", 0), ("cli held", 2), ("airflow dags list", 2)]
)
def test_pipeline_files_and_help_need_no_stack(command, tmp_path, verb, status):
    assert command(verb, PYTHONPATH=str(ROOT / "include"))[0] == status
    assert not (tmp_path / "var/airflow/airflow.db").exists()


@pytest.mark.parametrize("part", ["API", "S3"])
def test_the_command_line_asks_no_server_of_another_program(command, tmp_path, part):
    """Neither the password nor a list of a patient's files is for it."""
    (tmp_path / "var/airflow").mkdir(parents=True)
    (tmp_path / "var/airflow/migrated").touch()
    ports = {f"AIRLOCK_{one}_PORT": str(free_port()) for one in ("API", "S3", "HEALTH")}
    with foreign_server() as foreign:
        ports[f"AIRLOCK_{part}_PORT"] = str(foreign.port)
        status, _, err = command("cli run sample --no-wait", **ports)
    assert foreign.asked == []
    assert status == 2
    assert f"Port {foreign.port} " in err
    assert "is used by another program" in err


def test_what_it_writes_is_for_its_owner_only(tmp_path):
    environment = os.environ | {"AIRLOCK_VAR": str(tmp_path / "var")}
    subprocess.run([sys.executable, "-m", "airlock_local", "stop"], env=environment, check=True, capture_output=True)
    assert stat.S_IMODE((tmp_path / "var").stat().st_mode) == 0o700
