"""``airlock validate`` and ``airlock sign-off`` as a person calls them, against the emulator."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from typer.testing import CliRunner

from airlock_cli.app import app
from tests.chain import PROFILE, ccda_pipeline, clinical_pipeline
from tests.clinical_files import US_CORE_PATIENT, ndjson, observation, patient

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result

    from tests.chain import Place

pytestmark = pytest.mark.slow


@pytest.fixture
def airlock(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    folder = tmp_path / "pipelines"
    folder.mkdir()
    for line in (clinical_pipeline(), ccda_pipeline(), ccda_pipeline("gone", transformation=_version(7))):
        content = line.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        (folder / f"{line.name}.yaml").write_text(
            yaml.safe_dump(content | {"schema": "airlock.pipeline/1", "kind": line.kind})
        )
    for name, value in {
        "AIRLOCK_LEDGER_URL": place.ledger_url,
        "AIRLOCK_PIPELINES": str(folder),
        "AWS_ENDPOINT_URL": place.s3_endpoint,
        "AWS_ENDPOINT_URL_HEALTHLAKE": place.imaging_endpoint,
        "AWS_DISABLE_HOST_PREFIX_INJECTION": "true",
    }.items():
        monkeypatch.setenv(name, value)

    def call(*arguments: str) -> Result:
        result = CliRunner().invoke(app, [*arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


def _version(number: int) -> dict[str, Any]:
    return ccda_pipeline().transformation.model_dump() | {"profile_version": number}


def written(folder: Path, *resources: Any) -> str:
    file = folder / "a.ndjson"
    file.write_bytes(ndjson(*resources))
    return str(file)


class TestValidate:
    def test_good_files_end_with_0_and_nothing_is_stored(
        self, place: Place, airlock: Callable[..., Result], tmp_path: Path
    ) -> None:
        found = airlock("validate", written(tmp_path, patient("p1")), "--json")
        assert found.exit_code == 0
        assert json.loads(found.stdout)["with_errors"] == 0
        assert place.stored("Patient/p1") is None

    def test_errors_end_with_1_a_table_and_a_line_each(self, airlock: Callable[..., Result], tmp_path: Path) -> None:
        file = written(tmp_path, patient("p1"), patient("p2", gender="F"), observation("o1", status=None))
        lines = tmp_path / "outcomes.ndjson"
        found = airlock("validate", file, "--outcomes", str(lines))
        assert found.exit_code == 1
        assert "$validate" in found.stdout
        assert "local" in found.stdout
        kept = [json.loads(line) for line in lines.read_text().splitlines()]
        assert [(line["line"], line["source"]) for line in kept] == [(2, "$validate"), (3, "local")]
        assert {line["outcome"]["resourceType"] for line in kept} == {"OperationOutcome"}

    @pytest.mark.parametrize(
        ("options", "status"),
        [([], 1), (["--level", "structure-only"], 0), (["--level", "minimal"], 0)],
    )
    def test_the_level_says_how_closely(
        self, airlock: Callable[..., Result], tmp_path: Path, options: list[str], status: int
    ) -> None:
        faulty = patient("p1", meta={"profile": [US_CORE_PATIENT]}, identifier=None)
        assert airlock("validate", written(tmp_path, faulty), *options).exit_code == status

    def test_the_outcomes_do_not_overwrite_what_is_checked(
        self, airlock: Callable[..., Result], tmp_path: Path
    ) -> None:
        file = written(tmp_path, patient("p1"))
        refused = airlock("validate", file, "--level", "minimal", "--outcomes", file)
        assert (refused.exit_code, "--outcomes is one of the files to check" in refused.stderr) == (2, True)
        assert ndjson(patient("p1")) == (tmp_path / "a.ndjson").read_bytes()

    def test_a_profile_can_be_asked_for(self, airlock: Callable[..., Result], tmp_path: Path) -> None:
        file = written(tmp_path, patient("p1", identifier=None))
        assert airlock("validate", file).exit_code == 0
        assert airlock("validate", file, "--profile", US_CORE_PATIENT).exit_code == 1

    def test_minimal_needs_no_data_store(
        self, airlock: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AIRLOCK_PIPELINES")
        assert airlock("validate", written(tmp_path, patient("p1")), "--level", "minimal").exit_code == 0

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["nowhere.ndjson"], "is not a file"),
            (["."], "is not a file"),
            (["{file}", "--level", "minimal", "--profile", "p"], "--profile is what --level strict asks about"),
            (["{file}", "--pipeline", "nowhere"], "There is no pipeline 'nowhere'"),
        ],
    )
    def test_a_wrong_request_is_refused(
        self, airlock: Callable[..., Result], tmp_path: Path, arguments: list[str], said: str
    ) -> None:
        file = written(tmp_path, patient("p1"))
        refused = airlock("validate", *(argument.format(file=file) for argument in arguments))
        assert refused.exit_code == 2
        assert said in refused.stderr


class TestSignOff:
    WORD = ("--sample", "ten documents of each sender", "--coverage", "0.93", "--why", "compared by two clinicians")

    def test_it_is_in_the_decision_log(self, place: Place, airlock: Callable[..., Result]) -> None:
        signed = airlock("sign-off", "documents", *self.WORD, "--json")
        assert signed.exit_code == 0
        with place.ledger() as ledger:
            found = ledger.last_sign_off("documents", PROFILE, 1)
        assert found is not None
        assert (found.sample, found.coverage, found.why) == (self.WORD[1], 0.93, self.WORD[5])
        assert json.loads(signed.stdout)["signed_by"] == found.decided_by

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("gone", *WORD), "HealthLake has no version 7 of profile"),
            (("records", *WORD), "is of kind clinical and converts nothing"),
            (("documents", *WORD[:-1], " "), "The reason is empty"),
        ],
    )
    def test_what_cannot_be_signed_is_refused(
        self, place: Place, airlock: Callable[..., Result], arguments: tuple[str, ...], said: str
    ) -> None:
        refused = airlock("sign-off", *arguments)
        assert refused.exit_code == 2
        assert said in refused.stderr
        with place.ledger() as ledger:
            assert ledger.last_sign_off(arguments[0], PROFILE, 7) is None
