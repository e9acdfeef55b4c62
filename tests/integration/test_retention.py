"""What docs/runbooks/retention.md lets expire is needed by nobody: its queries and commands, on chains of two kinds."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from airlock.storage.s3uri import S3Uri
from airlock_tasks.run import connect_s3
from tests.chain import clinical_pipeline, pipeline
from tests.clinical_files import delivery
from tests.dicom_files import ct
from tests.integration.between_runs.runs import BAD, by_hand, given, key_of, redrive
from tests.integration.reconciling import Reconciler
from tests.markdown import ROOT
from tests.rebuilt_ledger import differences, lose_and_rebuild, read_tables

if TYPE_CHECKING:
    from pathlib import Path

    from airlock.pipelines import Pipeline
    from tests.chain import Chain, Place

PAGE = (ROOT / "docs/runbooks/retention.md").read_text(encoding="utf-8")
LATER = "2999-01-01"

pytestmark = pytest.mark.proof


def query(first_words: str, line: Pipeline) -> str:
    """Return a query of the page, for another pipeline and up to the end of time."""
    (found,) = (
        text for text in re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL) if text.strip().startswith(first_words)
    )
    return found.replace("'nightly'", f"'{line.name}'").replace("2026-09-01", LATER)


def ask(folder: Path, statement: str) -> list[tuple[str]]:
    with closing(sqlite3.connect(folder / "ledger.db")) as ledger:
        return ledger.execute(statement).fetchall()


def forgettable(folder: Path, line: Pipeline) -> set[str]:
    return {key for (key,) in ask(folder, query("SELECT r.run_key", line))}


def delete_old_datasets(place: Place, chain: Chain) -> int:
    """Delete the folders of a run that the page names; return how many objects they had."""
    (names,) = re.findall(r"for folder in (.+); do", PAGE)
    bucket, root = "workspace", f"runs/{chain.pipeline.name}/{key_of(chain)}/"
    folders = [f"{root}{inside}{name}/" for name in names.split() for inside in ("", "fhir/")]
    keys = [key for folder in folders for key in place.keys(bucket, folder)]
    for key in keys:
        place.s3().delete_object(Bucket=bucket, Key=key)
    return len(keys)


KINDS = {
    "imaging": (pipeline(), {"a/001.dcm": ct(1, 1, 1), "a/002.dcm": ct(1, 1, 2)}),
    "clinical": (clinical_pipeline(), delivery()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_which_nothing_is_open_needs_its_old_datasets_no_more(place: Place, tmp_path: Path, kind: str) -> None:
    line, files = KINDS[kind]
    place.put(files)
    one = by_hand(place, "one", line=line)
    one.run()
    given(set(one.report["dispositions"]) == {"released"})
    assert forgettable(tmp_path, line) == {key_of(one)}
    assert delete_old_datasets(place, one) > 0
    place.take("staging")
    place.take("output")
    before, jobs, contracts = read_tables(place.ledger_url), place.jobs(), place.contracts()

    assert Reconciler(place, line).report(content=kind == "imaging")["findings"] == {}
    report = lose_and_rebuild(place.ledger_url, tmp_path / "ledger.db", connect_s3("aws_default"), [line])
    assert not report.refused
    assert not differences(before, read_tables(place.ledger_url))
    again = by_hand(place, "two", line=line)
    again.run()
    assert again.report["arrivals"] == 0
    assert (place.jobs(), place.contracts()) == (jobs, contracts)


def test_a_run_with_held_files_is_not_among_those_to_forget(place: Place, tmp_path: Path) -> None:
    place.put({"a/001.dcm": ct(1, 1, 1), "a/002.dcm": BAD, "b/001.dcm": ct(2, 1, 1)})
    one = by_hand(place, "one")
    one.run()
    given("held" in one.report["dispositions"])
    assert forgettable(tmp_path, one.pipeline) == set()
    place.put({"c/001.dcm": ct(3, 1, 1)})
    two = by_hand(place, "two", "c")
    two.run()
    assert forgettable(tmp_path, one.pipeline) == {key_of(two)}
    assert ask(tmp_path, query("SELECT min(a.last_modified)", one.pipeline)) != [(None,)]


def test_a_run_whose_files_a_redrive_still_holds_is_not_among_those_to_forget(place: Place, tmp_path: Path) -> None:
    """The redrive decides by the verdicts of the run that imported them."""
    place.put({"a/001.dcm": ct(1, 1, 1), "a/002.dcm": BAD})
    one = by_hand(place, "one")
    one.run()
    again = redrive(place, "again", "study_incomplete")
    again.run()
    given(again.report["dispositions"] == {"held": 1})
    assert forgettable(tmp_path, one.pipeline) == set()


def test_a_run_that_has_not_settled_is_not_among_those_to_forget(place: Place, tmp_path: Path) -> None:
    place.put({"a/001.dcm": ct(1, 1, 1)})
    one = by_hand(place, "one")
    one.until("validate")
    assert forgettable(tmp_path, one.pipeline) == set()
    assert ask(tmp_path, query("SELECT min(started_at)", one.pipeline)) != [(None,)]


def test_the_rule_of_the_workspace_expires_no_current_version(place: Place) -> None:
    (text,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    rules = json.loads(text)
    workspace = S3Uri.parse(pipeline().workspace)
    place.s3().put_bucket_lifecycle_configuration(Bucket=workspace.bucket, LifecycleConfiguration=rules)
    (kept,) = place.s3().get_bucket_lifecycle_configuration(Bucket=workspace.bucket)["Rules"]
    assert kept["Filter"] == {"Prefix": workspace.key}
    assert kept["NoncurrentVersionExpiration"] == {"NoncurrentDays": 90}
    assert "Expiration" not in kept
