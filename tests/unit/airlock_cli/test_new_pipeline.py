"""airlock pipelines new: the file it writes loads as it is, and with every setting that it has switched off."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from airlock.pipelines import ClinicalPipeline, load_pipeline
from airlock_cli.new_pipeline import Answers, pipeline_text
from tests.markdown import ROOT
from tests.servers.moto import moto_server
from tests.servers.stack import deploy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROLE = "arn:aws:iam::123456789012:role/airlock-import"
GIVEN = {
    "--name": "st-elsewhere",
    "--kind": "imaging",
    "--source": "s3://st-elsewhere-archive/pacs",
    "--own": "s3://airlock-st-elsewhere/",
    "--datastore": "0123456789abcdef0123456789abcdef",
    "--role": ROLE,
    "--connection": "hospital",
    "--region": "eu-west-1",
}


def new(airlock: Any, folder: Path, **changes: str) -> Any:
    given = GIVEN | {f"--{name}": value for name, value in changes.items()}
    return airlock("pipelines", "new", str(folder), *(word for pair in given.items() for word in pair))


@pytest.mark.parametrize("kind", ["imaging", "clinical"])
def test_the_file_loads_and_has_the_answers(airlock: Any, tmp_path: Path, kind: str) -> None:
    assert new(airlock, tmp_path, kind=kind).exit_code == 0
    made = load_pipeline(tmp_path / "st-elsewhere.yaml")
    assert (made.name, made.kind, made.source.uri) == ("st-elsewhere", kind, "s3://st-elsewhere-archive/pacs/")
    assert made.connections() == {"hospital"}
    assert set(made.own_prefixes().values()) >= {
        f"s3://airlock-st-elsewhere/{part}/" for part in ("workspace", "staging", "contracts")
    }
    assert airlock("pipelines", "check", str(tmp_path)).exit_code == 0


@pytest.mark.parametrize("kind", ["imaging", "clinical"])
def test_every_setting_that_is_switched_off_can_be_switched_on(tmp_path: Path, kind: str) -> None:
    answers = Answers(
        "all-on", kind, "s3://the-archive/b/", "s3://airlocks-own/d/", "hospital", "eu-west-1", "0" * 31 + "a", ROLE
    )
    text, switched = re.subn(r"(?m)^(\s*)#(?! )", r"\1", pipeline_text(answers))
    assert switched > 8
    file = tmp_path / "all-on.yaml"
    file.write_text(text)
    made = load_pipeline(file)
    assert made.owner == "the archive team"
    assert made.schedule.import_window is not None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "St Elsewhere"}, "is not a name for a pipeline"),
        ({"source": "/mnt/archive"}, "source.uri"),
        ({"role": "airlock"}, "data_access_role_arn"),
        ({"datastore": "two words"}, "The answer for datastore is empty, or has a space"),
        ({"own": "s3://st-elsewhere-archive/pacs/airlock/"}, "is inside the source"),
        ({"region": "x\nroutes: []"}, "The answer for region"),
    ],
)
def test_a_wrong_answer_writes_nothing(airlock: Any, tmp_path: Path, changes: dict[str, str], said: str) -> None:
    result = new(airlock, tmp_path, **changes)
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_left(airlock: Any, tmp_path: Path) -> None:
    (tmp_path / "st-elsewhere.yaml").write_text("mine")
    assert new(airlock, tmp_path).exit_code == 2
    assert (tmp_path / "st-elsewhere.yaml").read_text() == "mine"


def test_what_is_not_given_is_asked_for(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from airlock_cli.app import app

    asked = ["st-elsewhere", "", *(GIVEN[name] for name in ("--source", "--own", "--datastore", "--role")), "", ""]
    result = CliRunner().invoke(app, ["pipelines", "new", str(tmp_path)], input="\n".join(asked) + "\n")
    assert result.exit_code == 0, result.output
    assert "The archive (s3://bucket/prefix/)" in result.output
    assert load_pipeline(tmp_path / "st-elsewhere.yaml").kind == "imaging"


def test_the_jobs_of_healthlake_name_the_key_of_the_stack(tmp_path: Path) -> None:
    key = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
    uris = {f"{name}Uri": f"s3://ours-{name.lower()}/x/" for name in ("Workspace", "Staging", "Output", "Contracts")}
    given = "records", "clinical", "s3://the-archive/b/", "s3://unused/", "hospital", "us-east-1", "0" * 31 + "a", ROLE
    file = tmp_path / "records.yaml"
    file.write_text(pipeline_text(Answers(*given, uris | {"BucketKeyArn": key})))
    made = load_pipeline(file)
    assert isinstance(made, ClinicalPipeline)
    assert made.healthlake.kms_key_id is None
    assert made.choose_output_key(made.healthlake.output_uri, None) == key


class TestStack:
    """The outputs of stacks are the answers."""

    PARAMETERS: ClassVar = {
        "BucketPrefix": "st-elsewhere",
        "ArchiveBucket": "st-elsewhere-archive",
        "HealthImagingDatastoreId": "d" * 32,
        "WorkerPrincipalArn": "arn:aws:iam::123456789012:user/airflow",
    }

    @pytest.fixture(scope="class")
    @classmethod
    def endpoint(cls) -> Iterator[str]:
        with moto_server() as running:
            made = deploy(running, ROOT / "deploy/cloudformation/airlock.yaml", "airlock", cls.PARAMETERS)
            given = {name: made[name] for name in ("BucketKeyArn", "WorkerRoleName")}
            given["ArchiveBucket"] = "st-elsewhere-archive"
            deploy(running, ROOT / "deploy/cloudformation/arrivals.yaml", "arrivals", given)
            yield running

    @pytest.fixture(autouse=True)
    def account(self, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")

    def new(self, airlock: Any, folder: Path, *stacks: str, kind: str = "imaging", region: str = "us-east-1") -> Any:
        named = [word for stack in stacks for word in ("--stack", stack)]
        given = ("--name", "pacs", "--kind", kind, "--connection", "hospital", "--region", region)
        return airlock("pipelines", "new", str(folder), *given, *named)

    def test_the_file_is_ready(self, airlock: Any, tmp_path: Path) -> None:
        result = self.new(airlock, tmp_path, "airlock", "arrivals")
        assert result.exit_code == 0, result.output
        made = load_pipeline(tmp_path / "pacs.yaml")
        assert made.source.uri == "s3://st-elsewhere-archive/deliveries/"
        assert made.own_prefixes() == {
            "workspace": "s3://st-elsewhere-workspace/runs/",
            "staging.uri": "s3://st-elsewhere-staging/batches/",
            "output_uri": "s3://st-elsewhere-output/imports/pacs/",
            "routes.contracts": "s3://st-elsewhere-contracts/studies/pacs/",
        }
        settings = made.bucket_settings()
        assert settings.pop("st-elsewhere-archive").expected_bucket_owner is None
        assert {one.expected_bucket_owner for one in settings.values()} == {"123456789012"}
        assert {(one.kms_key_id or "").partition("key/")[0] for one in settings.values()} == {
            "arn:aws:kms:us-east-1:123456789012:"
        }
        assert made.connections() == {"hospital"}
        assert made.arrivals.queue_url.startswith("https://sqs.us-east-1.")

    def test_without_the_queue_runs_are_nightly(self, airlock: Any, tmp_path: Path) -> None:
        assert self.new(airlock, tmp_path, "airlock").exit_code == 0
        assert load_pipeline(tmp_path / "pacs.yaml").arrivals is None

    def test_copies_are_read_where_the_stack_gave_the_archive_a_key(self, endpoint: str, tmp_path: Path) -> None:
        """Equal files have different ETags under a KMS key. Of an archive that exists, the key is not known."""
        given = self.PARAMETERS | {"BucketPrefix": "other", "ArchiveBucket": "other-archive", "MakeArchive": "yes"}
        made = deploy(endpoint, ROOT / "deploy/cloudformation/airlock.yaml", "with-archive", given)
        exists = {name: value for name, value in made.items() if name != "ArchiveKeyArn"}
        assert self.dedupe(tmp_path, "s3://other-archive/deliveries/pacs/", made) == "hash"
        assert self.dedupe(tmp_path, "s3://other-archive/deliveries/pacs/", exists) == "stored"
        assert self.dedupe(tmp_path, "s3://elsewhere/deliveries/pacs/", made) == "stored"

    @staticmethod
    def dedupe(folder: Path, source: str, outputs: dict[str, str]) -> str:
        given = "pacs", "imaging", source, outputs["WorkspaceUri"], "hospital", "us-east-1", "d" * 32, ROLE
        file = folder / "pacs.yaml"
        file.write_text(pipeline_text(Answers(*given, outputs=outputs)))
        return load_pipeline(file).validation.dedupe

    def test_a_profile_that_does_not_exist_is_named(
        self, airlock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        result = self.new(airlock, tmp_path, "airlock")
        assert (result.exit_code, "(nobody) could not be found. Check AWS_PROFILE." in result.stderr) == (2, True)

    @pytest.mark.parametrize(
        ("stacks", "changes", "said"),
        [
            (["other"], {}, "There is no stack 'other' in us-east-1"),
            (["arrivals"], {}, "Name the one of deploy/cloudformation/airlock.yaml"),
            (["airlock"], {"kind": "clinical"}, "Deploy airlock.yaml with HealthLakeDatastoreId"),
        ],
    )
    def test_a_stack_that_does_not_do_writes_nothing(
        self, airlock: Any, tmp_path: Path, stacks: list[str], changes: dict[str, str], said: str
    ) -> None:
        result = self.new(airlock, tmp_path, *stacks, **changes)
        assert (result.exit_code, said in result.stderr) == (2, True), result.stderr
        assert list(tmp_path.iterdir()) == []
