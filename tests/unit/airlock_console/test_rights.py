"""Every route by every user; identifiers are masked until somebody with the right asks, and that is logged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.routing import APIRoute
from sqlalchemy import create_engine, select, update

from airlock.ledger.decision_tables import decisions, reviews
from airlock.ledger.tables import arrivals, gates, runs, verdicts
from airlock.pipelines import load_pipeline
from airlock.stages.decision_log import DecisionNotKeptError
from airlock_local.sample.history import NIGHTLY, PATIENT, UID_ROOT
from tests.unit.airlock_console.conftest import (
    ADMIN,
    ANONYMOUS,
    OPERATOR,
    OUTSIDER,
    OWN_PAGE,
    PREFIX,
    REVIEWER,
    USERS,
    VIEWER,
    Browser,
)

if TYPE_CHECKING:
    from fastapi import FastAPI

GROUP = f"/triage/{NIGHTLY}/quarantined/not_dicom"
OF_ALL = (401, 200, 200, 200, 200, 200)  # in the order of USERS
OF_DAG = (401, 403, 200, 200, 200, 200)
# The status of every route, with an example of its address.
TABLE: dict[tuple[str, str], tuple[str, tuple[int, ...]]] = {
    ("GET", "/"): ("/", OF_ALL),
    ("GET", "/runs/{dag_id}"): (f"/runs/{NIGHTLY}", OF_DAG),
    ("GET", "/runs/{dag_id}/{run_id}"): (f"/runs/{NIGHTLY}/{{run_id}}", OF_DAG),
    ("GET", "/runs/{dag_id}/{run_id}/report.json"): (f"/runs/{NIGHTLY}/{{run_id}}/report.json", OF_DAG),
    ("POST", "/runs/{dag_id}/{run_id}/lists/{name}"): (
        f"/runs/{NIGHTLY}/{{run_id}}/lists/dispositions.csv",
        (401, 403, 403, 403, 404, 404),  # there is no such list here
    ),
    ("GET", "/find"): ("/find", OF_ALL),
    ("POST", "/find"): ("/find", OF_ALL),
    ("GET", "/studies/{dag_id}/{key}"): (f"/studies/{NIGHTLY}/{{study_key}}", OF_DAG),
    ("POST", "/studies/{dag_id}/{key}"): (f"/studies/{NIGHTLY}/{{study_key}}", (401, 403, 403, 403, 200, 200)),
    ("POST", "/studies/{dag_id}/{key}/notes"): (
        f"/studies/{NIGHTLY}/{{study_key}}/notes",
        (401, 403, 403, 303, 403, 303),
    ),
    ("GET", "/triage"): ("/triage", OF_ALL),
    ("GET", "/triage/{dag_id}/{disposition}/{reason}"): (GROUP, OF_DAG),
    ("GET", "/triage/{dag_id}/{disposition}/{reason}/files"): (f"{GROUP}/files", OF_DAG),
    ("POST", "/triage/{dag_id}/{disposition}/{reason}/files"): (f"{GROUP}/files", (401, 403, 403, 403, 200, 200)),
    ("GET", "/triage/{dag_id}/{disposition}/{reason}/list.csv"): (f"{GROUP}/list.csv", OF_DAG),
    ("GET", "/reviews/{dag_id}/{number}"): (f"/reviews/{NIGHTLY}/{{number}}", OF_DAG),
    ("POST", "/reviews/{dag_id}/{number}"): (f"/reviews/{NIGHTLY}/{{number}}", (401, 403, 403, 403, 409, 409)),
    ("GET", "/reviews/{dag_id}/{number}/samples/{key}"): (
        f"/reviews/{NIGHTLY}/{{number}}/samples/{{study_key}}",
        (401, 403, 404, 404, 404, 404),  # the review is about one study
    ),
    ("POST", "/reviews/{dag_id}/{number}/samples/{key}"): (
        f"/reviews/{NIGHTLY}/{{number}}/samples/{{study_key}}",
        (401, 403, 404, 404, 404, 404),
    ),
    ("GET", "/reviews/{dag_id}/of/{reason}"): (f"/reviews/{NIGHTLY}/of/truncated?site=nordhaven", OF_DAG),
    ("POST", "/reviews/{dag_id}/of/{reason}"): (f"/reviews/{NIGHTLY}/of/truncated", (401, 403, 403, 403, 422, 422)),
    ("GET", "/redrive/{dag_id}"): (f"/redrive/{NIGHTLY}?reasons=truncated", (401, 403, 403, 200, 403, 200)),
    ("GET", "/migration"): ("/migration", OF_ALL),
    ("GET", "/migration/{dag_id}/statement"): (f"/migration/{NIGHTLY}/statement", OF_DAG),
    ("GET", "/trends"): ("/trends", OF_ALL),
    ("GET", "/destinations"): ("/destinations", OF_ALL),
    ("POST", "/destinations/{dag_id}/requeue"): (f"/destinations/{NIGHTLY}/requeue", (401, 403, 403, 303, 403, 303)),
    ("GET", "/static/console.css"): ("/static/console.css", OF_ALL),
    ("GET", "/static/console.js"): ("/static/console.js", OF_ALL),
}
FORM = {"text": "1.2.3", "reveal": "1", "why": "the sender asks", "note": "asked the sender"}


def read(url: str, statement: Any) -> list[Any]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = list(connection.execute(statement))
    engine.dispose()
    return found


@pytest.fixture
def names(url: str) -> dict[str, str]:
    """A run and a held study of the history."""
    run_id = read(url, select(runs.c.run_id).where(runs.c.pipeline == NIGHTLY).order_by(runs.c.started_at.desc()))[0][0]
    return {
        "run_id": run_id,
        "study_key": read(url, select(gates.c.subject_key).order_by(gates.c.decided_at.desc()))[0][0],
        "number": str(read(url, select(reviews.c.id))[0][0]),
    }


def test_the_table_has_every_route(app: FastAPI) -> None:
    routes = {(method, route.path) for route in app.routes if isinstance(route, APIRoute) for method in route.methods}
    assert routes == set(TABLE)
    assert all(isinstance(route, APIRoute) for route in app.routes)  # nothing is mounted beside them, no docs


@pytest.mark.parametrize("user", USERS)
def test_each_user_gets_what_the_table_says(browser: Browser, names: dict[str, str], user: str) -> None:
    place = USERS.index(user)
    mine = browser.as_(user)
    for (method, path), (address, statuses) in TABLE.items():
        where = address.format(**names)
        form = FORM if path != "/find" else {"text": "1.2.3"}
        answer = mine.get(where) if method == "GET" else mine.post(where, form)
        assert answer.status_code == statuses[place], (method, path, answer.text)


@pytest.mark.parametrize("user", [ANONYMOUS, OUTSIDER])
def test_who_may_not_read_a_pipeline_reads_nothing_of_it(browser: Browser, names: dict[str, str], user: str) -> None:
    mine = browser.as_(user)
    for (method, _), (address, _) in TABLE.items():
        where = address.format(**names)
        answer = mine.get(where) if method == "GET" else mine.post(where, {"text": names["study_key"]})
        for secret in (names["study_key"], "viewer_hook", "nordhaven"):
            assert secret not in answer.text, where


@pytest.mark.parametrize("user", [VIEWER, OPERATOR, REVIEWER, ADMIN])
def test_no_page_names_a_key_or_a_uid_unasked(browser: Browser, names: dict[str, str], url: str, user: str) -> None:
    mine = browser.as_(user)
    changing = user in {OPERATOR, ADMIN}
    addresses = [address for (method, _), (address, by) in TABLE.items() if method == "GET" and 200 in by]
    answers = [mine.get(one.format(**names)) for one in addresses if changing or "redrive" not in one]
    (key,), (uid,) = (read(url, select(one).limit(1))[0] for one in (arrivals.c.key, gates.c.subject))
    answers += [mine.post("/find", {"text": text}) for text in (key, uid, f"s3://hospital-archive/{key}")]
    assert all(answer.status_code == 200 for answer in answers)
    for answer in answers:
        assert PATIENT not in answer.text
        assert UID_ROOT not in answer.text


class TestReveal:
    def test_it_is_logged_before_it_is_shown(self, browser: Browser, names: dict[str, str], url: str) -> None:
        where = f"/studies/{NIGHTLY}/{names['study_key']}"
        shown = browser.as_(REVIEWER).post(where, {"reveal": "1", "why": "the sender asks which file"})
        assert PATIENT in shown.text
        assert UID_ROOT in shown.text
        assert shown.headers["cache-control"] == "no-store"
        columns = (
            decisions.c.kind,
            decisions.c.pipeline,
            decisions.c.subject_key,
            decisions.c.decided_by,
            decisions.c.why,
        )
        row = ("reveal", NIGHTLY, names["study_key"], REVIEWER, "the sender asks which file")
        assert [tuple(found) for found in read(url, select(*columns))] == [row]
        again = browser.as_(VIEWER).get(where)
        assert PATIENT not in again.text
        assert "the sender asks which file" in again.text  # who has seen it is no secret

    def test_without_a_reason_nothing_is_shown_and_nothing_logged(
        self, browser: Browser, names: dict[str, str], url: str
    ) -> None:
        for where in (f"/studies/{NIGHTLY}/{names['study_key']}", f"{GROUP}/files"):
            answer = browser.as_(REVIEWER).post(where, {"reveal": "1", "why": "  "})
            assert answer.status_code == 422
            assert PATIENT not in answer.text
        assert read(url, select(decisions)) == []

    def test_a_log_that_cannot_be_written_shows_nothing(
        self, browser: Browser, names: dict[str, str], url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE TRIGGER refuse BEFORE INSERT ON decisions BEGIN SELECT RAISE(ABORT, 'full'); END"
            )
        engine.dispose()
        answer = browser.as_(REVIEWER).post(f"/studies/{NIGHTLY}/{names['study_key']}", {"why": "because"})
        assert answer.status_code == 503
        assert PATIENT not in answer.text

    def test_a_file_of_no_study_shows_its_key_once_it_is_logged(self, browser: Browser, url: str) -> None:
        shown = browser.as_(ADMIN).post(f"{GROUP}/files", {"why": "list for the sender"})
        assert PATIENT in shown.text
        assert len(read(url, select(decisions))) == 1

    def test_a_study_of_two_pipelines_needs_the_right_on_both(
        self, browser: Browser, url: str, names: dict[str, str]
    ) -> None:
        engine = create_engine(url)
        with engine.begin() as connection:  # a file of the study came by a pipeline that the outsider may read
            one = connection.execute(select(verdicts).where(verdicts.c.study_key == names["study_key"]).limit(1)).one()
            for table in (arrivals, verdicts):
                connection.execute(
                    update(table).where(table.c.arrival_id == one.arrival_id).values(pipeline="clinical")
                )
        engine.dispose()
        mine = browser.as_(OUTSIDER).get(f"/studies/clinical/{names['study_key']}")
        assert mine.status_code == 200
        assert NIGHTLY not in mine.text


class TestForeignPages:
    @pytest.mark.parametrize(
        "headers",
        [
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Authorization": "Basic cHJveHk6cGFzc3dvcmQ="},  # of a proxy: browsers send it from any page
            {"Authorization": "Bearer x", "Sec-Fetch-Site": "cross-site"},
            {},
        ],
        ids=str,
    )
    def test_a_form_of_another_site_is_refused(self, browser: Browser, headers: dict[str, str]) -> None:
        for where, form in ((f"/destinations/{NIGHTLY}/requeue", {}), ("/find", {"text": "1.2"})):
            assert browser.as_(ADMIN).post(where, form, headers).status_code == 403

    @pytest.mark.parametrize(
        "headers", [OWN_PAGE, {"Origin": "http://testserver"}, {"Authorization": "Bearer x"}], ids=str
    )
    def test_the_console_s_own_form_and_a_token_are_taken(self, browser: Browser, headers: dict[str, str]) -> None:
        assert browser.as_(ADMIN).post("/find", {"text": "1.2"}, headers).status_code == 200

    def test_what_is_looked_for_is_taken_by_post_only(self, browser: Browser) -> None:
        assert UID_ROOT not in browser.get(f"/find?text={UID_ROOT}1").text
        assert browser.client.put(f"{PREFIX}/find", headers={"x-user": ADMIN}).status_code == 405


class TestDecisionLog:
    """Where the API server has the pipeline's file, a copy of each decision is written before it takes effect."""

    class Log:
        def __init__(self, *, is_down: bool = False) -> None:
            self.is_down = is_down
            self.kept: list[tuple[str, object]] = []

        def decide(self, pipeline: Any, ledger: Any, record: Any, scope: Any) -> Any:
            if self.is_down:
                raise DecisionNotKeptError("no")
            self.kept.append((pipeline.name, scope))
            return record(ledger)

    @pytest.fixture
    def with_log(self, app: FastAPI) -> Any:
        def give(*, is_down: bool = False) -> TestDecisionLog.Log:
            log = self.Log(is_down=is_down)
            file = Path(__file__).parents[3] / "include/pipelines/nightly.yaml"
            files = {NIGHTLY: load_pipeline(file)}
            app.state.sources = replace(app.state.sources, pipelines=lambda: files, account=log)
            return log

        return give

    def test_looks_and_notes_are_kept(self, with_log: Any, browser: Browser, names: dict[str, str], url: str) -> None:
        log = with_log()
        where = f"/studies/{NIGHTLY}/{names['study_key']}"
        assert PATIENT in browser.as_(ADMIN).post(where, {"reveal": "1", "why": "because"}).text
        assert browser.as_(ADMIN).post(f"{where}/notes", {"note": "asked"}).status_code == 303
        assert log.kept == [(NIGHTLY, "reveals"), (NIGHTLY, "notes")]
        assert len(read(url, select(decisions))) == 1

    def test_the_first_opening_of_a_review_is_kept(
        self, with_log: Any, browser: Browser, names: dict[str, str]
    ) -> None:
        log = with_log()
        where = f"/reviews/{NIGHTLY}/{names['number']}"
        for person in (ADMIN, REVIEWER, ADMIN):
            assert browser.as_(person).get(where, **OWN_PAGE).status_code == 200
        assert log.kept == [(NIGHTLY, "review answers")] * 2

    def test_a_review_that_is_opened_without_its_copy_is_not_shown(
        self, with_log: Any, browser: Browser, names: dict[str, str], url: str
    ) -> None:
        with_log(is_down=True)
        assert browser.as_(ADMIN).get(f"/reviews/{NIGHTLY}/{names['number']}", **OWN_PAGE).status_code == 503
        assert read(url, select(decisions)) == []

    def test_a_copy_that_cannot_be_written_shows_nothing(
        self, with_log: Any, browser: Browser, names: dict[str, str], url: str
    ) -> None:
        with_log(is_down=True)
        where = f"/studies/{NIGHTLY}/{names['study_key']}"
        for address, form in ((where, {"reveal": "1", "why": "because"}), (f"{where}/notes", {"note": "asked"})):
            answer = browser.as_(ADMIN).post(address, form)
            assert (answer.status_code, "copy in the workspace could not be written" in answer.text) == (503, True)
            assert PATIENT not in answer.text
        assert read(url, select(decisions)) == []
