"""The clinical sample: the same every time, and the shipped pipeline decides on each line as it is described."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import boto3
import pytest

from airlock.clinical.parse import parse, read_chunks
from airlock.clinical.records import RESOURCES, VERDICTS
from airlock.clinical.validate import validate
from airlock.ledger import Ledger, upgrade
from airlock.pipelines import load_pipeline
from airlock.reasons import Reason
from airlock.records import ARRIVALS, Disposition, Verdict
from airlock.run import Run
from airlock.stages.buffer import buffer, find_shards
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from airlock_local.buckets import buckets_of, make_buckets
from airlock_local.deliver import files_below, sample_files, upload
from airlock_local.sample.clinical import SampleUnit, write_clinical_sample
from airlock_local.settings import ROOT
from localaws.fhir import Level, Validator
from tests.servers.moto import moto_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airlock.pipelines import ClinicalPipeline

Units = list[SampleUnit]
Place = tuple[str, int | None]

WORDS = {
    Verdict.QUARANTINE: Disposition.QUARANTINED,
    Verdict.IGNORE: Disposition.IGNORED,
    Verdict.DUPLICATE: Disposition.DUPLICATE,
    Verdict.PARK: Disposition.PARKED,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clinical")


@pytest.fixture(scope="module")
def units(folder: Path) -> Units:
    return write_clinical_sample(folder)


@pytest.fixture(scope="module")
def run(folder: Path, units: Units, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run[ClinicalPipeline]]:
    """The shipped pipeline's run of the sample, up to its verdicts."""
    assert units
    pipeline = load_pipeline(ROOT / "include/pipelines/clinical.yaml")
    url = f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'ledger.db'}"
    upgrade(url)
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    with moto_server() as endpoint, Ledger.open(url) as ledger:
        client = session.client("s3", endpoint_url=endpoint)
        make_buckets(client, buckets_of([pipeline]))
        target = S3Uri.parse(pipeline.source.uri).join("sample", "")
        upload(client, files_below(folder), target)
        run = Run(pipeline, "one", None, target, S3(session, client), ledger)
        for shard in buffer(run).shards:
            parse(run, shard)
        validate(run, None)
        yield run


@pytest.fixture(scope="module")
def decided(run: Run[ClinicalPipeline]) -> dict[Place, tuple[str, str | None]]:
    """What becomes of each unit and why: the verdicts, and of what they accept, what strict validation says."""
    (shard,) = find_shards(run)
    keys = dict(run.workspace.read(f"arrivals/{shard}", ARRIVALS).select("arrival_id", "key").iter_rows())
    bodies = run.workspace.read_all(read_chunks(run, [shard]), RESOURCES).select("arrival_id", "line", "body")
    verdicts = run.workspace.read("verdicts", VERDICTS).join(bodies, on=["arrival_id", "line"], how="left")
    validator = Validator()
    found = {}
    for row in verdicts.iter_rows(named=True):
        word, reason = WORDS.get(row["verdict"], Disposition.RELEASED), row["reason"]
        if row["verdict"] == Verdict.ACCEPT and validator.check(json.loads(row["body"]), Level.STRICT).rejected:
            word, reason = Disposition.FAILED, str(Reason.REJECTED)
        path = keys[row["arrival_id"]].removeprefix(run.prefix.key)
        found[path, row["line"]] = (str(word), reason)
    return found


def test_it_is_the_same_every_time(folder: Path, units: Units, tmp_path: Path) -> None:
    assert write_clinical_sample(tmp_path) == units
    for file in files_below(folder):
        assert (tmp_path / file.name).read_bytes() == file.path.read_bytes()


def test_the_list_of_troubles(units: Units) -> None:
    assert {unit.trouble for unit in units if unit.trouble} == {
        *("success_marker", "text", "image", "zero_bytes", "cut_gzip"),
        *("no_json", "cut_line", "list", "unknown_type", "no_type", "no_id", "bad_id", "type_of_stu3"),
        *("too_large", "bundle_among_lines", "deletion"),
        *("invalid", "of_r5", "found_by_the_store"),
        *("duplicate", "same_id_other_content", "reference_to_nothing", "urn_to_nothing"),
    }


def test_every_trouble_names_the_reasons_that_are_right_for_it(units: Units) -> None:
    assert [unit for unit in units if unit.trouble and not unit.reasons <= set(Reason)] == []
    assert [unit for unit in units if unit.dispositions != {"released"} and not unit.reasons] == []


def test_every_line_is_decided_on_as_described(units: Units, decided: dict[Place, tuple[str, str | None]]) -> None:
    assert {(unit.path, unit.line) for unit in units} == set(decided)
    wrong = {
        (unit.path, unit.line): decided[unit.path, unit.line]
        for unit in units
        if decided[unit.path, unit.line][0] not in unit.dispositions
        or (unit.reasons and decided[unit.path, unit.line][1] not in unit.reasons)
    }
    assert wrong == {}


def test_it_is_written_once_and_found_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = sample_files(tmp_path, "clinical")
    assert sample_files(tmp_path, "clinical") == first
    assert capsys.readouterr().out.count("Writing the sample.") == 1
    assert {file.name.partition("/")[0] for file in first} == {"nordhaven", "sakuragawa", "lakeview"}
