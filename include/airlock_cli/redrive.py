"""``airlock redrive``: a person's choice of arrivals as the conf of a run; no UID leaves this process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airlock.reasons import SENTENCES
from airlock.records import study_key
from airlock.storage.s3uri import S3Uri, S3UriError
from airlock_cli import workspaces
from airlock_cli.errors import RequestError
from airlock_cli.held import check_reason
from airlock_cli.show import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import Pipeline
    from airlock.stages.redrive import RedriveRules

SCHEMA = "airlock.redrive/1"
_COLUMNS = ("disposition", "reason", "what_to_do", "study_key", "generation", "key")
SHOWN = 50  # rows of the table; --json has all
_NOTHING_CHOSEN = "Nothing is chosen. Give --run, --study, --reason, --csv or --findings."

_STUDY_KEY = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Choice:
    """A person's choice of the arrivals to process again."""

    run: str | None
    study: str | None
    reasons: tuple[str, ...]
    csv: str | None
    non_primary: str | None
    findings: bool = False
    site: str | None = None


def build_redrive_conf(pipeline: str, choice: Choice, why: str) -> dict[str, Any]:
    """Return the conf of a redrive; a local CSV file is uploaded to the workspace.

    Raises
    ------
    RequestError
        If nothing is chosen, no reason is given, or a part of the choice is invalid.
    """
    if not why.strip():
        raise RequestError("--why is empty. Give a reason: the ledger keeps it.")
    if not (choice.run or choice.study or choice.reasons or choice.csv or choice.findings):
        raise RequestError(_NOTHING_CHOSEN)
    for code in choice.reasons:
        check_reason(code)
    conf = {
        "redrive_run": choice.run,
        "redrive_study": _hash_study(choice.study),
        "redrive_reasons": list(choice.reasons) or None,
        "redrive_csv": _resolve_csv(pipeline, choice.csv),
        "redrive_why": why.strip(),
        "redrive_non_primary": choice.non_primary,
        "redrive_findings": choice.findings,
        "redrive_site": choice.site,
    }
    return {name: value for name, value in conf.items() if value}


def _hash_study(study: str | None) -> str | None:
    """Return the study key, since Airflow stores and shows a run's conf, which must hold no UID."""
    return study if study is None or _STUDY_KEY.fullmatch(study) else study_key(study)


def _resolve_csv(pipeline: str, csv: str | None) -> str | None:
    if csv is None:
        return None
    if not csv.startswith("s3://"):
        return _upload(pipeline, Path(csv))
    try:
        return str(S3Uri.parse(csv))
    except S3UriError as error:
        raise RequestError(f"--csv: {error}") from None


def _upload(pipeline: str, file: Path) -> str:
    from airlock.stages.redrive_list import read_csv  # noqa: PLC0415  # only a list needs these
    from airlock.stages.redrive_request import RedriveError  # noqa: PLC0415

    known = workspaces.load_named_pipeline(pipeline)
    try:
        return workspaces.upload_csv(known, file, lambda body: read_csv(body, _rules(known).csv_columns))
    except RedriveError as error:
        raise RequestError(f"--csv {file}: {error}") from None


def preview(pipeline: str, conf: dict[str, Any]) -> dict[str, Any]:
    """Return the arrivals that a redrive with this conf would process again, schema `SCHEMA`; nothing is claimed.

    Raises
    ------
    RequestError
        If the choice is empty, or has arrivals that cannot be redriven.
    """
    from airlock.run import Run  # noqa: PLC0415
    from airlock.stages.redrive import select_arrivals  # noqa: PLC0415  # only a dry run needs these
    from airlock.stages.redrive_request import RedriveError, read_request  # noqa: PLC0415
    from airlock_cli.ledgers import open_ledger  # noqa: PLC0415

    known = workspaces.load_named_pipeline(pipeline)
    source = S3Uri.parse(known.source.uri)
    try:
        asked = read_request(conf, None, known)
        if asked is None:
            raise RequestError(_NOTHING_CHOSEN)
        with open_ledger() as ledger, workspaces.open_s3(known) as store:
            rows = select_arrivals(Run(known, "dry run", None, source, store, ledger), asked, _rules(known)).to_dicts()
    except RedriveError as error:
        raise RequestError(str(error)) from None
    found = [row | {"what_to_do": SENTENCES.get(row["reason"])} for row in rows]
    return {"schema": SCHEMA, "pipeline": pipeline, "chosen": found}


def _rules(pipeline: Pipeline) -> RedriveRules:
    from airlock.ccda.redrive import RULES as DOCUMENTS  # noqa: PLC0415  # only a list and a dry run need these
    from airlock.clinical.redrive import RULES as FILES  # noqa: PLC0415
    from airlock.imaging.redrive import RULES as STUDIES  # noqa: PLC0415

    rules: dict[str, RedriveRules] = {"imaging": STUDIES, "clinical": FILES, "ccda": DOCUMENTS}
    return rules[pipeline.kind]


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Yield the table of a result of `preview`."""
    rows = [[row[name] for name in _COLUMNS] for row in found["chosen"][:SHOWN]]
    more = f" ({SHOWN} shown; --json has all)" if len(found["chosen"]) > SHOWN else ""
    yield Table(f"{len(found['chosen'])} arrivals would be processed again{more}", _COLUMNS, rows)
