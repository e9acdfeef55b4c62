"""docs/doctor.md has a row for every check."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from airlock.pipelines import load_pipeline
from airlock.stages.doctor.examination import list_checks
from airlock.stages.doctor.pipeline_files import FILE
from tests.markdown import ROOT
from tests.unit.airlock.stages.doctor.account import ID, REGION
from tests.unit.airlock.stages.doctor.test_needed_rights import world_of

if TYPE_CHECKING:
    from tests.unit.airlock.stages.doctor.account import Account


def test_every_check_has_a_row(account: Account) -> None:
    page = (ROOT / "docs/doctor.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`[a-z_.]+`(?:, `[a-z_.]+`)*) \|", page, re.MULTILINE)
    rows = {name for cell in cells for name in re.findall(r"`([a-z_]+\.[a-z_]+)`", cell)}
    account.content["notify"] = [{"sns": f"arn:aws:sns:{REGION}:{ID}:nights"}]
    named = {FILE} | {check.name for check in list_checks(account.world())}
    account.airflow.has_settings = False
    named |= {check.name for check in list_checks(account.world())}
    ccda = load_pipeline(ROOT / "include/pipelines/ccda.yaml")
    named |= {check.name for check in list_checks(world_of(ccda, account.airflow))}
    assert rows == named
