"""A pipeline file is right, or one sentence names the file, the field, the value and the fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from airlock import pipelines
from airlock.pipelines import ImagingPipeline, Limits, PipelineError, load_pipeline, load_pipelines
from airlock.reasons import Reason
from tests.unit.airlock.clinical.books import SECTIONS as CLINICAL
from tests.unit.airlock.world import SECTIONS

ROOT = Path(__file__).parents[4]
SHIPPED = sorted((ROOT / "include" / "pipelines").glob("*.y*ml"))


def written(folder: Path, content: Any, name: str = "night.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def changed(where: str, value: Any) -> dict[str, Any]:
    """Return the sections with one field set, or taken away where the value is ...."""
    content = json.loads(json.dumps(SECTIONS))
    *path, last = where.split(".")
    section = content
    for name in path:
        section = section.setdefault(name, {}) if isinstance(section, dict) else section[int(name)]
    if value is ...:
        del section[last]
    else:
        section[last] = value
    return content


def problem(folder: Path, content: Any) -> str:
    with pytest.raises(PipelineError) as info:
        load_pipeline(written(folder, content))
    assert info.value.__cause__ is None or not isinstance(info.value.__cause__, ValidationError)
    text = str(info.value)
    assert all(line.startswith("night.yaml: ") for line in text.splitlines())
    return text


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_pipeline_loads(path: Path) -> None:
    assert load_pipeline(path).name


def test_all_shipped_pipelines_load_together() -> None:
    found, problems = load_pipelines(ROOT / "include" / "pipelines")
    assert len(found) == len(SHIPPED) > 0
    assert problems == []


def test_the_smallest_file_has_sound_defaults(tmp_path: Path) -> None:
    content = {name: value for name, value in SECTIONS.items() if name != "routes"}
    loaded = load_pipeline(written(tmp_path, content))
    assert loaded.validation.grouping_conflict == "reject"
    assert loaded.audit.hold_incomplete_studies
    assert loaded.limits.files_per_job == 5_000
    assert loaded.limits.bytes_per_job == 10 * 1000**3
    assert loaded.parse.in_flight == 64
    assert loaded.schedule.cron == "0 2 * * *"
    assert loaded.schedule.max_active_runs == 2  # of waves, one is read while the one before is imported
    assert not loaded.waves.hold_split
    assert loaded.retries >= 2
    assert str(loaded) == "nightly"


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        ("nmae", "x", "field 'nmae' is unknown: remove it, or see docs/pipelines.md"),
        ("source.url", "s3://archive/in/", "field 'source.url' is unknown: remove it"),
        ("routes.0.format", "json", "field 'routes.0.format' is unknown"),
        ("name", ..., "field 'name' is missing: add it"),
        ("schema", ..., "field 'schema' is missing: add it"),
        ("staging", ..., "field 'staging' is missing: add it"),
        ("healthimaging.datastore_id", ..., "field 'healthimaging.datastore_id' is missing: add it"),
        (
            "schema",
            "airlock.pipeline/2",
            "field 'schema': Input should be 'airlock.pipeline/1' (it is 'airlock.pipeline/2')",
        ),
        ("notify", [{"sqs": "https://sqs.example/123456789012/q.fifo"}], "q.fifo is FIFO, but Airflow's notifiers"),
        ("notify", [{"sns": "arn:aws:sns:eu-central-1:123456789012:t.fifo"}], "t.fifo is FIFO"),
        ("kind", "video", "field 'kind' must be imaging, clinical or ccda"),
        ("name", "Night Run", "(it is 'Night Run')"),
        ("healthimaging.datastore_id", "ABC", "field 'healthimaging.datastore_id'"),
        ("healthimaging.data_access_role_arn", "import", "(it is 'import')"),
        ("parse.in_flight", 0, "field 'parse.in_flight': Input should be greater than or equal to 1 (it is 0)"),
        ("parse.in_flight", "many", "(it is 'many')"),
        ("parse.in_flight", 513, "field 'parse.in_flight': Input should be less than or equal to 512 (it is 513)"),
        ("parse.max_shards", 1025, "field 'parse.max_shards'"),
        ("parse.requests_per_second", 0, "field 'parse.requests_per_second': Input should be greater than 0 (it is 0)"),
        ("parse.request_timeout_seconds", 0, "field 'parse.request_timeout_seconds'"),
        ("parse.retries", -1, "field 'parse.retries'"),
        ("parse.first_range_kib", 8192, "field 'parse.first_range_kib': Input should be less than or equal to 4096"),
        ("parse.first_ranges", [{"prefix": "", "kib": 64}], "field 'parse.first_ranges.0.prefix'"),
        ("parse.first_ranges", [{"prefix": "in/mr/", "kib": 0}], "field 'parse.first_ranges.0.kib'"),
        ("parse.first_ranges", [{"prefix": "in/mr/", "kib": 64}] * 2, "the prefix 'in/mr/' twice: remove one"),
        ("parse.first_ranges", [{"prefix": "mr/", "kib": 64}], "write the whole key, for example 'in/mr/'"),
        (
            "parse",
            {"first_range_kib": 2048, "max_header_mib": 1},
            "2048 KiB exceed max_header_mib (1)",
        ),
        (
            "parse",
            {"in_flight": 512, "first_ranges": [{"prefix": "in/mr/", "kib": 1024}]},
            "more than 256 MiB of memory: set in_flight to 256 or lower, or lower the first ranges",
        ),
        ("staging.kms_key_id", "alias/a", "staging.kms_key_id: write kms_key_id below the name of the staging bucket"),
        (
            "staging.source_owner_account_id",
            "123456789012",
            "staging.source_owner_account_id: write expected_bucket_owner below the name of the archive's bucket",
        ),
        ("retries", 1, "field 'retries': Input should be greater than or equal to 2 (it is 1)"),
        ("audit.read_back_fraction", 1.5, "field 'audit.read_back_fraction'"),
        ("audit.read_back_fraction", float("nan"), "field 'audit.read_back_fraction'"),
        ("source", "s3://archive/in/", "field 'source'"),
        ("source.window", "night", "field 'source.window': Input should be 'last_modified' or 'key_date'"),
        ("source.key_date_pattern", "(", "key_date_pattern is not a regular expression"),
        ("source.key_date_pattern", r"\d+", "needs the named groups year, month and day"),
        ("source.uri", "s3://archive", "is a bucket without a prefix: add a prefix that ends in '/'"),
        ("source.uri", "s3://archive/", "is a bucket without a prefix"),
        (
            "source.uri",
            "s3://archive/in",
            "'s3://archive/in' must end in '/': without it, .../1.2.3 would also match .../1.2.34/",
        ),
        ("source.uri", "/data/archive/", "'/data/archive/' is not an S3 address: write s3://bucket/prefix/"),
        ("workspace", "s3://work/runs", "field 'workspace': 's3://work/runs' must end in '/'"),
        (
            "staging.copies_in_flight",
            257,
            "field 'staging.copies_in_flight': Input should be less than or equal to 256",
        ),
        ("buckets", {"work": {"expected_bucket_owner": "12345"}}, "field 'buckets.work.expected_bucket_owner'"),
        ("buckets", {"others": {"expected_bucket_owner": 123456789012}}, "put it in quotes, because YAML reads digits"),
        ("buckets", {"work": {"kms_key_id": "my key"}}, "field 'buckets.work.kms_key_id'"),
        ("buckets", {"work": {"kms_key_id": "arn:aws:s3:::key"}}, "field 'buckets.work.kms_key_id'"),
        ("buckets", {"wrok": {}}, "buckets names 'wrok', which no address of the pipeline has: did you mean work?"),
        ("buckets", {"other": {}}, "it uses archive"),
        ("buckets", {"work": {"bucket_key": False}}, "buckets.work.bucket_key has no effect without kms_key_id"),
        ("staging.uri", "s3://work", "field 'staging.uri': 's3://work' is a bucket without a prefix"),
        ("healthimaging.output_uri", "s3://work/", "field 'healthimaging.output_uri'"),
        ("routes.0.uri", "s3://work/contracts", "field 'routes.0.uri'"),
        (
            "workspace",
            "s3://archive/in/work/",
            "workspace 's3://archive/in/work/' is inside the source 's3://archive/in/'",
        ),
        ("workspace", "s3://archive/in/", "its files would be imported: move it"),
        ("staging.uri", "s3://archive/in/staging/", "staging.uri 's3://archive/in/staging/' is inside the source"),
        ("healthimaging.output_uri", "s3://archive/in/out/", "output_uri 's3://archive/in/out/' is inside the source"),
        ("routes.0.uri", "s3://archive/in/contracts/", "routes.contracts 's3://archive/in/contracts/' is inside"),
        ("validation.warn_only", ["not_dicom"], "not_dicom must not be accepted: use only"),
        ("validation.warn_only", ["patient_id_conflict", "invalid_uid"], "patient_id_conflict must not be accepted"),
        ("validation.warn_only", ["missing_study_instance_uid"], "missing_study_instance_uid must not be accepted"),
        ("validation.warn_only", ["nonsense"], "field 'validation.warn_only.0'"),
        ("validation.grouping_conflict", "merge", "Input should be 'reject', 'majority' or 'accept' (it is 'merge')"),
        (
            "limits.element_lengths",
            {"PatientIdent": 64},
            "PatientIdent has no limit: use one of AccessionNumber, ",
        ),
        ("limits.element_lengths", {"PatientID": 0}, "field 'limits.element_lengths.PatientID'"),
        (
            "schedule.timezone",
            "Mars/Base",
            "'Mars/Base' is not a time zone: write an IANA name, for example Europe/Berlin or UTC",
        ),
        ("schedule.timezone", "../etc/passwd", "is not a time zone"),
        ("schedule.cron", "every night", "field 'schedule.cron'"),
        ("schedule.cron", "0 0 31 2 *", "not a cron expression that ever fires"),
        ("source.lookback_days", 7, "lookback_days 7 has no effect with window: last_modified: write lookback_hours"),
        ("source.lookback_days", 0, "field 'source.lookback_days'"),
        ("source.owed_days", 0, "field 'source.owed_days'"),
        (
            "schedule.import_window",
            {"start": 1200, "end": "06:00"},  # what YAML makes of 20:00 without quotes
            "field 'schedule.import_window.start': Input should be a valid string; put it in quotes",
        ),
        ("schedule.import_window", {"start": "24:00", "end": "06:00"}, "(it is '24:00')"),
        ("schedule.import_window", {"start": "20:00"}, "field 'schedule.import_window.end' is missing: add it"),
        (
            "schedule.import_window",
            {"start": "20:00", "end": "20:00"},
            "start and end are both 20:00: remove import_window to start jobs at any time",
        ),
        (
            "schedule.import_window",
            {"start": "20:00", "end": "06:00", "timezone": "Mars"},
            "'Mars' is not a time zone: write an IANA name, for example Europe/Berlin or UTC",
        ),
        ("plan.job_mib_per_second", 0, "field 'plan.job_mib_per_second': Input should be greater than 0 (it is 0)"),
        ("plan.prices.put_per_1000", -1, "field 'plan.prices.put_per_1000'"),
        ("plan.prices.storage", 1, "field 'plan.prices.storage' is unknown: remove it"),
        ("schedule.start_date", "yesterday", "field 'schedule.start_date'"),
        ("name", "nightly__review", "the name 'nightly__review' is that of a DAG beside another pipeline's"),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_the_fix(tmp_path: Path, where: str, value: Any, says: str) -> None:
    assert says in problem(tmp_path, changed(where, value))


def test_a_region_of_published_endpoints_that_contradicts_the_data_store_is_refused(tmp_path: Path) -> None:
    content = changed("healthimaging.region_name", "eu-west-1") | {"publish": {"dicomweb_region": "us-east-1"}}
    assert "publish.dicomweb_region is 'us-east-1', but the HealthImaging data store is in 'eu-west-1'" in problem(
        tmp_path, content
    )


def test_every_wrong_field_is_named_at_once(tmp_path: Path) -> None:
    text = problem(tmp_path, changed("source.uri", "archive") | {"retries": 0, "colour": "red"})
    assert all(field in text for field in ("'source.uri'", "'retries'", "'colour'"))
    assert text.count("\n") >= 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("name: [", "cannot be read as YAML"),
        ("\tname: x", "cannot be read as YAML"),
        ("schedule: {start_date: 2026-02-30}", "cannot be read as YAML: day is out of range"),
        ("!!python/object/apply:os.system ['true']", "cannot be read as YAML"),
        ("[" * 5000, "cannot be read as YAML"),
        ("- a\n- b\n", "the file is not a mapping of fields"),
        ("just text", "the file is not a mapping of fields"),
        ("", "the file is not a mapping of fields"),
        ("kind: imaging\n1: x", "field '1'"),
        ("name: a\nkind: imaging\nname: b\n", "field 'name' is written twice: remove one of the two"),
        ("buckets: {others: {}, 'others': {}}", "field 'others' is written twice"),
    ],
)
def test_a_file_that_is_not_a_pipeline_gets_one_error(tmp_path: Path, content: str, says: str) -> None:
    assert says in problem(tmp_path, content)


def test_a_second_section_cannot_silently_drop_the_key_of_the_first(tmp_path: Path) -> None:
    first = "buckets: {others: {kms_key_id: alias/airlock}}\n"
    second = "buckets: {others: {expected_bucket_owner: '123456789012'}}\n"
    assert "field 'buckets' is written twice" in problem(tmp_path, yaml.safe_dump(SECTIONS) + first + second)


def test_a_merged_mapping_may_replace_fields(tmp_path: Path) -> None:
    section = "{archive: &one {kms_key_id: alias/a}, work: &two {<<: *one, kms_key_id: alias/b}, others: {<<: *two}}"
    loaded = load_pipeline(written(tmp_path, yaml.safe_dump(SECTIONS) + f"buckets: {section}\n"))
    assert [one.kms_key_id for one in loaded.buckets.values()] == ["alias/a", "alias/b", "alias/b"]


def test_a_file_that_is_not_text_or_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "night.yaml"
    with pytest.raises(PipelineError, match=r"night\.yaml: the file cannot be read as YAML: .*No such file"):
        load_pipeline(path)
    path.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(PipelineError, match=r"night\.yaml: the file cannot be read as YAML"):
        load_pipeline(path)


@pytest.mark.parametrize("name", ["events", '"events"', "on", '"on"', "true", "On", "yes"])
def test_the_events_of_a_notify_are_read_under_their_old_name_too(tmp_path: Path, name: str) -> None:
    """YAML 1.1 reads on, without quotes, as true."""
    text = yaml.safe_dump(SECTIONS) + f"notify:\n- {name}: [hold, failure]\n  slack: '#archive'\n"
    assert load_pipeline(written(tmp_path, text)).notify[0].events == ("hold", "failure")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (
            "events: [hold], on: [late]",
            "field 'notify.0': events is given twice, because on is its old name: remove on",
        ),
        ('on: [hold], "on": [late]', "field 'notify.0': events is given twice"),
        (
            "on: [hodl]",
            (
                "field 'notify.0.events.0': Input should be 'hold', 'failure', 'late', 'brake', 'sweep', "
                "'patient', 'review' or 'done' (it is 'hodl')"
            ),
        ),
        ("off: [hold]", "Keys should be strings (it is False)"),
        ("1: [hold]", "Keys should be strings (it is 1)"),
    ],
)
def test_the_events_of_a_notify_are_given_once_and_are_known(tmp_path: Path, entry: str, says: str) -> None:
    text = yaml.safe_dump(SECTIONS) + f"notify: [{{{entry}, slack: '#archive'}}]\n"
    assert says in problem(tmp_path, text)


def test_two_routes_with_one_name_are_refused(tmp_path: Path) -> None:
    route = SECTIONS["routes"][0]
    text = problem(tmp_path, changed("routes", [route, route | {"uri": "s3://work/second/"}]))
    assert "two routes have the same name: contracts" in text


def test_a_run_folder_that_would_lie_below_the_source_is_refused(tmp_path: Path) -> None:
    """The run's datasets lie in <workspace>/<pipeline>/: here, that is the source itself."""
    text = problem(tmp_path, changed("source.uri", "s3://work/runs/nightly/"))
    assert "workspace 's3://work/runs/' is inside the source" in text


def test_more_generations_than_tries_are_refused(tmp_path: Path) -> None:
    text = problem(tmp_path, changed("healthimaging.max_generations", 5))
    assert "max_generations is 5, but 3 retries allow only 4 generations: set retries to 4 or more" in text
    assert load_pipeline(written(tmp_path, changed("healthimaging.max_generations", 4))).retries == 3


def test_one_limit_given_leaves_the_others_as_they_are() -> None:
    limits = Limits(element_lengths={"StudyID": 16})
    assert limits.element_lengths == Limits().element_lengths | {"StudyID": 16}


def test_a_soft_reason_may_be_accepted(tmp_path: Path) -> None:
    loaded = load_pipeline(written(tmp_path, changed("validation.warn_only", ["invalid_uid"])))
    assert loaded.validation.warn_only == (Reason.INVALID_UID,)


@pytest.mark.parametrize("conflict", ["issuer_conflict", "patient_id_conflict"])
def test_whose_study_it_is_cannot_be_waved_through(tmp_path: Path, conflict: str) -> None:
    text = problem(tmp_path, changed("validation.warn_only", [conflict]))
    assert f"{conflict} must not be accepted" in text


class TestFolder:
    def test_two_pipelines_with_one_name_are_both_out_and_the_others_stay(self, tmp_path: Path) -> None:
        written(tmp_path, SECTIONS, "a.yaml")
        written(tmp_path, SECTIONS, "b.yml")
        written(tmp_path, SECTIONS | {"name": "weekly"}, "c.yaml")
        found, problems = load_pipelines(tmp_path)
        assert list(found) == ["weekly"]
        (text,) = map(str, problems)
        assert text == "a.yaml and b.yml name their pipeline 'nightly': rename one; neither runs until then"

    def test_a_bad_file_leaves_the_good_ones_usable(self, tmp_path: Path) -> None:
        written(tmp_path, SECTIONS, "good.yaml")
        written(tmp_path, "- list", "bad.yaml")
        written(tmp_path, changed("retries", 0), "worse.yaml")
        (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
        (tmp_path / "README.md").write_text("no pipeline")
        found, problems = load_pipelines(tmp_path)
        assert list(found) == ["nightly"]
        assert sorted(str(each).partition(":")[0] for each in problems) == ["bad.yaml", "gone.yaml", "worse.yaml"]

    def test_an_empty_folder_has_no_pipelines_and_no_problems(self, tmp_path: Path) -> None:
        assert load_pipelines(tmp_path) == ({}, [])

    def test_a_folder_that_is_none_is_named_with_the_setting(self, tmp_path: Path) -> None:
        with pytest.raises(PipelineError, match="nowhere is not a folder: set AIRLOCK_PIPELINES"):
            load_pipelines(tmp_path / "nowhere")
        with pytest.raises(PipelineError, match="is not a folder"):
            load_pipelines(written(tmp_path, SECTIONS))

    def test_a_folder_that_cannot_be_read_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(self: Path) -> Any:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "iterdir", refuse)  # the tests may run as root, who can read everything
        with pytest.raises(PipelineError, match=r"cannot be read: .*Permission denied.*AIRLOCK_PIPELINES"):
            load_pipelines(tmp_path)


class TestSchema:
    def test_it_is_the_one_in_the_docs(self) -> None:
        """docs/schemas.md has the command that writes it."""
        assert json.loads((ROOT / "docs" / "pipeline.schema.json").read_text()) == pipelines.json_schema()

    def test_it_describes_the_file_and_not_the_class(self) -> None:
        published = pipelines.json_schema()
        assert set(published["discriminator"]["mapping"]) == {"imaging", "clinical", "ccda"}
        schema = published["$defs"]["ImagingPipeline"]
        assert "schema" in schema["required"]
        assert schema["additionalProperties"] is False
        assert set(SECTIONS) <= set(schema["properties"])


def test_a_pipeline_cannot_be_changed_after_it_was_read() -> None:
    loaded = ImagingPipeline.model_validate(SECTIONS)
    with pytest.raises(ValueError, match="frozen"):
        loaded.retries = 5  # type: ignore[misc]


QUEUE = {"queue_url": "https://sqs.us-east-1.amazonaws.com/123456789012/arrivals"}


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({}, "field 'arrivals.queue_url' is missing"),
        ({"queue_url": "arn:aws:sqs:us-east-1:123456789012:arrivals"}, "field 'arrivals.queue_url'"),
        ({"queue_url": f"{QUEUE['queue_url']}.fifo"}, "field 'arrivals.queue_url'"),
        (QUEUE | {"dead_letter_queue_url": QUEUE["queue_url"]}, "dead_letter_queue_url equals queue_url"),
        (QUEUE | {"gather_messages": 0}, "field 'arrivals.gather_messages'"),
    ],
)
def test_wrong_queue_is_explained(tmp_path: Path, section: dict[str, Any], sentence: str) -> None:
    assert sentence in problem(tmp_path, changed("arrivals", section))


def test_queue_cannot_wake_runs_over_an_inventory(tmp_path: Path) -> None:
    content = changed("arrivals", QUEUE)
    content["source"] |= {"listing": "inventory", "inventory_uri": "s3://inventory/a/b/", "window": "key_date"}
    assert "set source.listing to s3, or remove arrivals" in problem(tmp_path, content)


def test_pipelines_with_one_queue_must_agree_about_it(tmp_path: Path) -> None:
    for name, seconds in (("one", 5), ("two", 5), ("three", 6)):
        content = changed("arrivals", QUEUE | {"gather_seconds": seconds}) | {"name": name}
        written(tmp_path, content, f"{name}.yaml")
    found, problems = load_pipelines(tmp_path)
    assert (sorted(found), len(problems)) == (["one", "two"], 1)
    assert all("have the same arrivals.queue_url but other fields of arrivals differ" in str(item) for item in problems)


def test_pipelines_that_publish_one_stores_studies_must_agree_whose_they_are(tmp_path: Path) -> None:
    match = {"rules": [{"type": "identifier", "system": "urn:oid:1.2.3"}]}
    for name, more in (("one", {"patient_match": match}), ("two", {"patient_match": match}), ("three", {})):
        content = changed("publish", {"issuer_systems": {"NORTH": "urn:oid:1.2.3"}} | more) | {"name": name}
        content["healthlake"] = CLINICAL["healthlake"]
        written(tmp_path, content, f"{name}.yaml")
    found, problems = load_pipelines(tmp_path)
    said = "publish the studies of one data store, but publish.patient_match or publish.issuer_systems differ"
    assert (len(found), len(problems), said in str(problems[0])) == (2, 1, True)
