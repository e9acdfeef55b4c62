"""What a mistake looks like at the terminal: one sentence, exit status 2, nothing done."""

import os
import subprocess
import sys

import pytest


@pytest.fixture
def command(tmp_path):
    def run(*arguments, **variables):
        environment = os.environ | {"AIRLOCK_VAR": str(tmp_path / "var")} | variables
        return subprocess.run(
            [sys.executable, "-m", "airlock_local", *arguments],
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"SOURCE": "/no/such/folder"}, "SOURCE=/no/such/folder does not exist"),
        ({"SOURCE": "s3://nowhere/x/"}, "is no prefix, ending in '/', below the source"),
        ({"SOURCE": "s3://"}, "'s3://' is not an S3 address"),
        ({"PIPELINE": "nowhere"}, "there is no pipeline 'nowhere'"),
        ({"AIRLOCK_PIPELINES": "/no/such/folder"}, "/no/such/folder is no folder"),
        ({"AIRLOCK_API_PORT": "x"}, "AIRLOCK_API_PORT is 'x'"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_does_nothing(command, tmp_path, variables, sentence):
    ended = command("run", **variables)
    assert ended.returncode == 2
    assert sentence in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""
    assert not (tmp_path / "var").exists()


def test_stopping_what_does_not_run_is_no_error(command):
    ended = command("stop")
    assert (ended.returncode, ended.stdout) == (0, "nothing to stop\n")


def test_the_status_of_a_stack_that_is_not_up(command):
    ended = command("status")
    assert (ended.returncode, ended.stdout) == (1, "nothing runs: make run starts the stack\n")
