"""A request is checked before anything is started, and each mistake is one sentence that names its fix."""

import pytest
import yaml

from airlock.pipelines import PipelineError
from airlock_local.choice import choose
from airlock_local.deliver import SourceError
from airlock_local.settings import ROOT

SAMPLE = ROOT / "include/pipelines/sample.yaml"


@pytest.fixture
def pipelines(tmp_path):
    folder = tmp_path / "pipelines"
    folder.mkdir()
    (folder / "sample.yaml").write_text(SAMPLE.read_text())
    return folder


def add(folder, name, **changes):
    content = yaml.safe_load(SAMPLE.read_text()) | {"name": name}
    for field, value in changes.items():
        content[field] = content[field] | value if isinstance(value, dict) else value
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


def on_account(folder, name):
    add(folder, name, source={"aws_conn_id": "mine"}, healthimaging={"aws_conn_id": "mine"})


def test_the_sample_is_the_default_source(pipelines):
    choice = choose(pipelines, "sample", "", {})
    assert str(choice.target) == "s3://airlock-archive/deliveries/sample/"
    assert choice.files is None
    assert (choice.uses_local, choice.uses_account) == (True, False)


@pytest.mark.parametrize("kind", ["clinical", "ccda"])
def test_every_kind_has_a_sample(kind):
    choice = choose(ROOT / "include/pipelines", kind, "", {})
    assert str(choice.target) == f"s3://airlock-archive/{kind}/sample/"
    assert choice.files is None


def test_a_folder_gets_a_prefix_of_its_own(pipelines, tmp_path):
    (tmp_path / "my files").mkdir()
    (tmp_path / "my files/a.dcm").write_bytes(b"x")
    choice = choose(pipelines, "sample", str(tmp_path / "my files"), {})
    assert choice.target.key.startswith("deliveries/my-files-")
    assert [file.name for file in choice.files] == ["a.dcm"]


def test_a_prefix_on_s3_is_taken_as_it_is(pipelines):
    choice = choose(pipelines, "sample", "s3://airlock-archive/deliveries/site a/", {})
    assert choice.target.key == "deliveries/site a/"
    assert choice.files == ()


@pytest.mark.parametrize(
    "source", ["s3://elsewhere/x/", "s3://airlock-archive/other/", "s3://airlock-archive/deliveries/no-slash"]
)
def test_a_prefix_outside_the_source_explains_how_to_use_an_account(pipelines, source):
    with pytest.raises(SourceError, match=r"define that connection as AIRFLOW_CONN_<ID>.*make run PIPELINE=<name>"):
        choose(pipelines, "sample", source, {})


def test_an_unknown_pipeline_names_the_known_ones(pipelines):
    add(pipelines, "second")
    with pytest.raises(PipelineError, match=r"There is no pipeline 'third' in .*: choose one of sample, second"):
        choose(pipelines, "third", "", {})


def test_two_pipelines_of_one_name_stop_the_run(pipelines):
    (pipelines / "copy.yaml").write_text(SAMPLE.read_text())
    with pytest.raises(PipelineError, match=r"copy\.yaml and sample\.yaml name their pipeline 'sample'"):
        choose(pipelines, "sample", "", {})


def test_an_unknown_field_stops_the_run(pipelines):
    add(pipelines, "second", colour="red")
    with pytest.raises(PipelineError, match=r"second\.yaml: field 'colour' is unknown"):
        choose(pipelines, "sample", "", {})


def test_an_account_needs_its_connection(pipelines):
    on_account(pipelines, "real")
    with pytest.raises(PipelineError, match=r"not defined: mine\. Set in the environment.* AIRFLOW_CONN_MINE=") as told:
        choose(pipelines, "real", "", {"AIRFLOW_CONN_AWS_DEFAULT": "aws://"})
    assert '"conn_type": "aws"' in str(told.value)


def test_all_connections_that_are_missing_are_named_at_once_and_a_webhook_s_is_not_aws(pipelines):
    hook = {"name": "hook", "webhook": {"conn_id": "viewer_hook"}}
    add(pipelines, "real", source={"aws_conn_id": "mine"}, routes=[hook])
    with pytest.raises(PipelineError, match="not defined: mine, viewer_hook") as told:
        choose(pipelines, "real", "", {})
    assert str(told.value).count('"conn_type": "aws"') == str(told.value).count('"conn_type": "http"') == 1


def test_an_account_takes_its_whole_source_and_no_sample(pipelines):
    on_account(pipelines, "real")
    choice = choose(pipelines, "real", "", {"AIRFLOW_CONN_MINE": "aws://"})
    assert str(choice.target) == "s3://airlock-archive/deliveries/"
    assert choice.files == ()
    assert choice.uses_account


def test_only_local_pipelines_get_local_buckets_and_data_stores(pipelines):
    on_account(pipelines, "real")
    add(pipelines, "second", healthimaging={"datastore_id": "b" * 32}, workspace="s3://second-workspace/runs/")
    choice = choose(pipelines, "sample", "", {})
    imaging = [seed for seed in choice.seeds() if seed.startswith("--datastore=")]
    assert {seed.rpartition(":")[2] for seed in imaging} == {"sample", "second"}
    assert "second-workspace" in choice.buckets()
