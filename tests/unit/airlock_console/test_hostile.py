"""Hostile values in every column that a page shows: none of them becomes an element, a script or an address."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import create_engine, insert, select, update

from airlock.ledger.decision_tables import decisions, reviews
from airlock.ledger.tables import arrivals, census, gates, jobs, outbox, run_totals, runs, words
from airlock.stages.pages.report_file import make_page
from airlock_local.sample.history import NIGHTLY
from tests.unit.airlock_console.conftest import ADMIN, Browser

CORPUS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style></pre><svg/onload=alert(1)>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "\u202e&lt;b&gt;\x1b[31m",
)
OUR_SCRIPT = "/airlock/static/console.js"


class Elements(HTMLParser):
    """The elements of a page that could do harm."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.harmful: list[tuple[str, Any]] = []
        self.names: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        values = dict(attrs)
        if tag == "script" and values.get("src") != OUR_SCRIPT:
            self.harmful.append((tag, values))
        if tag in {"img", "iframe", "object", "embed", "base"}:
            self.harmful.append((tag, values))
        for name, value in values.items():
            scheme = (value or "").strip().lower()
            leads = name in {"href", "src", "action", "formaction", "xlink:href"}
            if name.startswith("on") or name == "style" or (leads and scheme.startswith(("javascript:", "data:"))):
                self.harmful.append((tag, {name: value}))


def poison(url: str, text: str) -> dict[str, str]:
    """Put a text into every column that a page shows, and return the names of a run and a study."""
    engine = create_engine(url)
    with engine.begin() as connection:
        for column in (
            *(arrivals.c.key, arrivals.c.site, run_totals.c.site, census.c.site, words.c.detail, gates.c.reason),
            *(outbox.c.destination, outbox.c.last_error, reviews.c.site, reviews.c.assignee, reviews.c.reason),
        ):
            values = {column.name: text}
            rows = update(column.table)
            if column is outbox.c.destination:  # unique with its subject
                rows = rows.where(outbox.c.destination.startswith("webhook"))
            connection.execute(rows.values(values))
        newest = select(runs).where(runs.c.pipeline == NIGHTLY).order_by(runs.c.started_at.desc()).limit(1)
        run = connection.execute(newest).one()
        report = _poison_report(json.loads(run.report), text)
        connection.execute(
            update(runs).where(runs.c.run_key == run.run_key).values(run_id=text, report=json.dumps(report))
        )
        study = connection.execute(select(gates.c.subject_key).where(gates.c.run_key == run.run_key)).scalars().first()
        head = {"kind": "reveal", "pipeline": NIGHTLY, "subject_key": study, "decided_at": run.started_at}
        connection.execute(insert(decisions).values(head | {"decided_by": text, "why": text}))
        facts = {"batch_id": text, "generation": 0, "run_key": run.run_key, "client_token": text, "message": text}
        connection.execute(insert(jobs).values(facts | {"input_uri": text, "output_uri": text}))
    engine.dispose()
    return {"study_key": str(study), "report": json.dumps(report)}


def _poison_report(report: dict[str, Any], text: str) -> dict[str, Any]:
    for name in ("run_id", "run_key", "brake"):
        report[name] = text
    report["problems"] = [text]
    report["window"] = [text, text]
    report["validation_level"] = text
    report["reasons"][text] = {"arrivals": 1, "sentence": text}
    report["dispositions"][text] = 1
    report["verdicts"][text] = 1
    report["owed"]["reasons"][text] = {"objects": 1, "overdue": 1, "sentence": text}
    report["held"].append({"study_key": text, "reason": text})
    for job in report["jobs"]:
        job |= {"batch_id": text, "job_id": text, "status": text, "discrepancies": [text]}
    return report


@pytest.mark.parametrize("text", CORPUS, ids=range(len(CORPUS)))
def test_a_hostile_value_stays_text_on_every_page(browser: Browser, url: str, text: str) -> None:
    names = poison(url, text)
    mine = browser.as_(ADMIN)
    study = f"/studies/{NIGHTLY}/{names['study_key']}"
    assert mine.post(f"{study}/notes", {"note": text}).status_code == 303
    answers = [
        *(mine.get(path) for path in ("/", f"/runs/{NIGHTLY}", "/triage", "/migration", "/trends", "/destinations")),
        *(mine.get(f"/migration/{NIGHTLY}/statement"), mine.get(study), mine.post(study, {"why": text})),
        mine.get(f"/triage/{NIGHTLY}/quarantined/not_dicom"),
        mine.post(f"/triage/{NIGHTLY}/quarantined/not_dicom/files", {"why": text}),
        *(mine.get(f"/redrive/{NIGHTLY}?reasons=truncated"), mine.get(study)),
        *(mine.get(f"/reviews/{NIGHTLY}/1"), mine.get(f"/reviews/{NIGHTLY}/of/x?site={quote(text)}")),
        *(mine.post("/find", {"text": text}), mine.post("/find", {"text": text, "reveal": "1", "why": text})),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert Elements(answer.text).harmful == []
        assert "49{%" not in answer.text
    assert Elements(make_page(json.loads(names["report"]))).harmful == []


@pytest.mark.parametrize("text", CORPUS, ids=range(len(CORPUS)))
def test_a_hostile_address_stays_text(browser: Browser, text: str) -> None:
    for path in ("/triage", "/trends", f"/runs/{NIGHTLY}/x", f"/triage/{NIGHTLY}/held/study_incomplete", "/none"):
        answer = browser.client.get(
            f"/airlock{path}",
            params={"pipeline": text, "site": text, "after": text, "days": text},
            headers={"x-user": ADMIN},
        )
        assert Elements(answer.text).harmful == []


def test_a_list_for_the_sender_runs_no_formula(browser: Browser, url: str) -> None:
    poison(url, "=HYPERLINK(0)")
    body = browser.get(f"/triage/{NIGHTLY}/quarantined/not_dicom/list.csv").text
    assert ",'=HYPERLINK(0)," in body
    assert "pacs" not in body


def test_the_parser_of_this_test_sees_what_is_harmful() -> None:
    assert len(Elements("".join(CORPUS[:2])).harmful) == 3
    assert Elements("<p onmouseover='alert(1)'>").harmful
