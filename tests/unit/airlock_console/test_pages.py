"""What the pages show of a history, what they cost, and what they say when something is wrong."""

from __future__ import annotations

import html
import json
import re
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import and_, create_engine, event, func, insert, select, text, update

from airlock.ledger import Ledger
from airlock.ledger.columns import ComparisonKind
from airlock.ledger.decision_tables import decisions
from airlock.ledger.tables import gates, outbox, runs, words
from airlock.pipelines import ImportWindow, load_pipeline
from airlock.stages.pages.tonight import DagState, QueueDepth
from airlock_local.sample.history import ARCHIVE, NIGHTLY, ROUTES
from tests.unit.airlock_console.conftest import ADMIN, NOW, OPERATOR, REVIEWER, VIEWER, Browser

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI

    from airlock.ledger.console import Console

PAGES = ("/", f"/runs/{NIGHTLY}", f"/runs/{ARCHIVE}", "/triage", "/migration", "/trends", "/destinations")
MORE_PAGES = (f"/triage/{NIGHTLY}/quarantined/truncated", f"/migration/{ARCHIVE}/statement", "/find")
MOST_QUERIES = 8


@contextmanager
def counted(console: Console) -> Iterator[list[str]]:
    """Collect the statements that the console sends."""
    sent: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        sent.append(statement)

    event.listen(console._engine, "before_cursor_execute", note)
    yield sent
    event.remove(console._engine, "before_cursor_execute", note)


@pytest.mark.parametrize("path", [*PAGES, *MORE_PAGES])
def test_a_page_asks_at_most_eight_questions(browser: Browser, console: Console, path: str) -> None:
    browser.get("/destinations")  # the first page checks the schema
    with counted(console) as sent:
        assert browser.get(path).status_code == 200
    questions = [one for one in sent if not one.startswith(("BEGIN", "PRAGMA"))]
    assert len(questions) <= MOST_QUERIES
    assert not [one for one in questions if not one.lstrip().upper().startswith(("SELECT", "WITH"))]


@pytest.mark.parametrize("path", ["/", "/triage", "/migration", "/trends", f"/runs/{NIGHTLY}", "/destinations"])
def test_no_page_counts_arrivals(browser: Browser, console: Console, path: str) -> None:
    with counted(console) as sent:
        browser.get(path)
    # They look only at what was replaced, and whether open runs have an arrival.
    allowed = [one for one in sent if "FROM successors" in one or "FROM runs \nWHERE" in one]
    assert not [one for one in sent if one not in allowed and ("FROM arrivals" in one or "arrival_states" in one)]


def test_the_same_page_is_not_sent_again(browser: Browser) -> None:
    first = browser.get("/triage")
    again = browser.get("/triage", if_none_match=first.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")
    assert browser.as_(VIEWER).get("/triage").headers["vary"] == "Cookie, Authorization"


@pytest.mark.parametrize("path", [*PAGES, *MORE_PAGES, "/none", "/static/console.js"])
def test_every_answer_forbids_foreign_and_inline_script(browser: Browser, path: str) -> None:
    policy = browser.get(path).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy


class TestTonight:
    def test_the_worst_pipeline_comes_first_with_what_to_do(self, browser: Browser) -> None:
        page = browser.get("/").text
        assert page.index(f">{NIGHTLY}</a>") < page.index(f">{ARCHIVE}</a>")
        assert "14 messages were given up" in page
        assert "usually it is" in page  # more is rejected than in other nights
        assert "reviews wait for an answer" in page

    def test_what_is_known_of_the_studies_is_that_of_each_pipelines_last_run(self, browser: Browser, url: str) -> None:
        engine = create_engine(url)
        with engine.begin() as connection:
            newest = select(func.max(runs.c.started_at)).where(runs.c.pipeline == NIGHTLY).scalar_subquery()
            last = and_(runs.c.pipeline == NIGHTLY, runs.c.started_at == newest)
            report = json.loads(connection.scalar(select(runs.c.report).where(last)) or "")
            report |= {"unattributed": {"files": 3, "sites": {"<b>north": 2, "": 1}}}
            report |= {"declared": {"equal": 40, "fewer": 1, "findings": []}, "patient_match": {"ambiguous": 7}}
            report |= {"completeness": {"complete": 30, "partial": 2, "unknown": 9}}
            connection.execute(update(runs).where(last).values(report=json.dumps(report)))
        engine.dispose()
        table = browser.get("/").text.partition("What is known of the studies</h2>")[2].partition("</table>")[0]
        assert table.count('<th scope="row">') == 2
        for cell in ("complete 30, partial 2, unknown 9", "equal 40, fewer 1", "ambiguous 7"):
            assert f"<td>{cell}</td>" in table
        assert "<td>3: &lt;b&gt;north 2, no site 1</td>" in table

    def test_reviews_that_nobody_applies_lead_to_their_dag(self, browser: Browser, app: FastAPI) -> None:
        paused = {f"{NIGHTLY}__review": DagState(is_paused=True)}
        app.state.sources = replace(app.state.sources, dags=lambda names: {n: paused[n] for n in names if n in paused})
        assert f'data-leave href="/dags/{NIGHTLY}__review"' in browser.get("/").text

    def test_the_hours_of_imports_are_beside_the_next_run(self, browser: Browser, app: FastAPI) -> None:
        made = load_pipeline(Path(__file__).parents[3] / "include/pipelines/nightly.yaml")
        window = ImportWindow(start="20:00", end="06:30", timezone="Europe/Vienna")
        limited = made.model_copy(update={"schedule": made.schedule.model_copy(update={"import_window": window})})
        app.state.sources = replace(app.state.sources, pipelines=lambda: {NIGHTLY: limited, ARCHIVE: made})
        assert browser.get("/").text.count("imports start from 20:00 to 06:30 Europe/Vienna") == 1

    def test_an_outsider_s_tonight_is_empty_of_others(self, browser: Browser) -> None:
        assert NIGHTLY not in browser.as_("outsider").get("/").text


class TestRun:
    def test_it_balances_with_ticks_and_medians(self, browser: Browser) -> None:
        page = browser.get(f"/runs/{NIGHTLY}").text
        assert "Books balance." in page
        assert page.count("&#10003; equals") == 3
        assert '<tr class="unusual">' in page
        assert ROUTES[1] in page

    def test_a_reason_leads_to_its_files(self, browser: Browser) -> None:
        page = browser.get(f"/runs/{NIGHTLY}").text
        (link,) = re.findall(r'href="/airlock(/triage[^"]*reason=truncated)"', page)
        group = browser.get(html.unescape(link)).text
        assert f"/triage/{NIGHTLY}/quarantined/truncated" in group
        assert "not_dicom</a>" not in group.partition("<tbody>")[2]

    def test_its_cost_is_shown_where_its_prices_are_known(self, browser: Browser, app: FastAPI) -> None:
        assert "Estimate, prices of" not in browser.get(f"/runs/{NIGHTLY}").text
        made = load_pipeline(Path(__file__).parents[3] / "include/pipelines/nightly.yaml")
        app.state.sources = replace(app.state.sources, pipelines=lambda: {NIGHTLY: made})
        assert f"Estimate, prices of {made.plan.prices.region}: requests" in browser.get(f"/runs/{NIGHTLY}").text

    def test_a_wave_names_the_run_that_has_listed_its_delivery(self, browser: Browser, url: str) -> None:
        engine = create_engine(url)
        with engine.begin() as connection:
            mine = select(runs.c.run_id).where(runs.c.pipeline == NIGHTLY).order_by(runs.c.started_at.desc()).limit(2)
            last, lead = connection.execute(mine).scalars()
            renamed = {"run_id": f"wave_0003__{lead}"}
            connection.execute(update(runs).where(runs.c.run_id == last, runs.c.pipeline == NIGHTLY).values(renamed))
        engine.dispose()
        page = browser.get(f"/runs/{NIGHTLY}").text
        assert "Wave 3 of the delivery" in page
        assert "wave 3 is the last that has begun" in browser.get(f"/runs/{NIGHTLY}/{lead}").text
        assert "Wave " not in browser.get(f"/runs/{ARCHIVE}").text

    def test_a_run_without_a_report_shows_how_far_it_is(self, browser: Browser, url: str) -> None:
        page = browser.get(f"/runs/{ARCHIVE}").text
        assert "Not audited yet." in page
        assert '<th scope="row">parse</th><td class="number">3</td><td class="number">4</td>' in page

    def test_a_stopped_run_says_why(self, browser: Browser, url: str) -> None:
        engine = create_engine(url)
        with engine.begin() as connection:
            unbalanced = text("UPDATE runs SET report = replace(report, '\"balanced\": true', '\"balanced\": false')")
            connection.execute(unbalanced)
        engine.dispose()
        assert "BOOKS DO NOT BALANCE" in browser.get(f"/runs/{NIGHTLY}").text
        assert "do not balance" in browser.get("/").text

    def test_an_unknown_run_is_a_sentence(self, browser: Browser) -> None:
        answer = browser.get(f"/runs/{NIGHTLY}/deleted")
        assert (answer.status_code, "no such run" in answer.text) == (404, True)

    def test_who_may_not_change_gets_no_redrive(self, browser: Browser) -> None:
        assert "/redrive/" in browser.as_(OPERATOR).get(f"/runs/{NIGHTLY}").text
        assert "/redrive/" not in browser.as_(VIEWER).get(f"/runs/{NIGHTLY}").text

    def test_the_report_is_a_file(self, browser: Browser, url: str) -> None:
        engine = create_engine(url)
        with engine.connect() as connection:
            run = connection.execute(select(runs).where(runs.c.pipeline == NIGHTLY).limit(1)).one()
        engine.dispose()
        assert browser.get(f"/runs/{NIGHTLY}/{run.run_id}/report.json").json()["run_key"] == run.run_key


class TestTriage:
    def test_a_group_opens_to_studies_and_a_study_to_its_story(self, browser: Browser) -> None:
        groups = browser.get("/triage?disposition=held").text
        assert "study_incomplete" in groups
        assert "not_dicom" not in groups.split("<table>")[1].split("</table>")[0]
        studies = browser.get(f"/triage/{NIGHTLY}/held/study_incomplete?site=nordhaven").text
        key = studies.split(f"/studies/{NIGHTLY}/")[1][:16]
        story = browser.get(f"/studies/{NIGHTLY}/{key}").text
        assert f"HELD in {NIGHTLY} since" in story
        assert "files claimed" in story

    def test_the_numbers_of_a_group_are_those_of_its_files(self, browser: Browser, console: Console) -> None:
        from airlock.ledger.triage import Group

        with console.page() as ledger:
            totals = {
                (one.site, one.disposition, one.reason): one.arrivals
                for one in ledger.present_totals({NIGHTLY})
                if one.disposition in {"held", "quarantined"}
            }
            for (site, disposition, reason), number in totals.items():
                assert reason is not None
                assert sum(one.files for one in ledger.studies_of(Group(NIGHTLY, disposition, reason, site))) == number
        assert len(totals) > 10

    def test_groups_are_chosen_by_the_age_of_their_oldest_decision(self, browser: Browser) -> None:
        everything = browser.get("/triage").text
        ages = [
            one for one in ("under a day", "1 to 7 days", "7 to 30 days", "over 30 days") if f">{one}</a>" in everything
        ]
        assert "7 to 30 days" in ages  # the history has twenty nights
        old = browser.get("/triage?age=7%20to%2030%20days").text
        assert 0 < old.count("<tr>") < everything.count("<tr>")
        assert "Nothing is held or rejected with these values" in browser.get("/triage?age=never").text

    def test_a_list_for_the_sender_says_if_it_does_not_have_all(
        self, browser: Browser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        group = f"/triage/{NIGHTLY}/quarantined/not_dicom"
        assert "It has at most 10,000 files" in browser.get(group).text
        whole = browser.get(f"{group}/list.csv").text.splitlines()
        files = len(whole) - 1
        assert files > 2
        for most, last in ((files, whole[-1]), (2, '"The list ends after 2 files. There are more')):
            for module in ("airlock.ledger.triage", "airlock_console.triage"):
                monkeypatch.setattr(f"{module}.MOST_LISTED", most)
            lines = browser.get(f"{group}/list.csv").text.splitlines()
            assert lines[: most + 1] == whole[: most + 1]
            assert lines[-1].startswith(last)

    @pytest.mark.parametrize("path", ["/held/no_such_reason", "/released/truncated"])
    def test_a_group_that_cannot_be_is_not_found(self, browser: Browser, path: str) -> None:
        assert browser.get(f"/triage/{NIGHTLY}{path}").status_code == 404


def test_migration_says_when_the_last_sweep_ended_and_which_files_are_other_than_images(
    browser: Browser, app: FastAPI, url: str
) -> None:
    with Ledger.open(url) as ledger:
        begun = ledger.begin_comparison(
            ComparisonKind.SWEEP, {"uri": "s3://in/"}, pipeline=NIGHTLY, is_dry=False, asked_by="ada"
        )
        ledger.end_comparison(begun, {"others": {"pdf": 1203, "jpg": 40}})
    unknown = browser.get("/migration").text
    assert "The last sweep ended" in unknown
    assert "pdf 1,203" not in unknown, "of a pipeline of which nobody knows that it takes images"
    made = load_pipeline(Path(__file__).parents[3] / "include/pipelines/nightly.yaml")
    app.state.sources = replace(app.state.sources, pipelines=lambda: {NIGHTLY: made})
    assert "by file extension: pdf 1,203, jpg 40." in browser.get("/migration").text


class TestDestinations:
    def test_messages_that_were_given_up_are_queued_again(
        self, browser: Browser, url: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        assert "given up" in browser.get("/destinations").text
        answer = browser.as_(ADMIN).post(f"/destinations/{NIGHTLY}/requeue", {"destination": ROUTES[1]})
        assert answer.headers["location"] == "/airlock/destinations?due=20"
        assert f"{ADMIN} has queued the open messages of {NIGHTLY} again: 20 are due" in caplog.messages
        assert "20 messages are due" in browser.get("/destinations?due=20").text
        engine = create_engine(url)
        with engine.connect() as connection:
            states = set(connection.scalars(select(outbox.c.state).where(outbox.c.destination == ROUTES[1])))
        engine.dispose()
        assert states == {"pending", "sent"}


class TestTroubles:
    def test_a_ledger_of_another_schema(self, browser: Browser, url: str) -> None:
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("UPDATE airlock_ledger_version SET version_num = '9999'"))
        engine.dispose()
        answer = browser.get("/")
        assert (answer.status_code, "another schema" in answer.text) == (503, True)

    def test_a_ledger_that_is_gone(self, browser: Browser, console: Console, url: str) -> None:
        for one in Path(url.removeprefix("sqlite:///")).parent.glob("ledger.db*"):
            one.unlink()
        answer = browser.get("/")
        assert answer.status_code == 503
        assert "Traceback" not in answer.text

    def test_a_report_that_no_page_expects(self, browser: Browser, url: str) -> None:
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(update(runs).where(runs.c.report.is_not(None)).values(report='{"pipeline": "DOE^JANE"}'))
        engine.dispose()
        answer = browser.get(f"/runs/{NIGHTLY}")
        assert answer.status_code == 500
        assert "This page failed" in answer.text
        assert "DOE" not in answer.text

    def test_a_form_that_is_too_large(self, browser: Browser) -> None:
        assert browser.post("/find", {"text": "x" * 70_000}).status_code == 413

    @pytest.mark.parametrize("path", ["/trends?days=7", "/trends?days=x"])
    def test_a_value_that_does_not_belong_there(self, browser: Browser, path: str) -> None:
        assert browser.get(path).status_code == 422


class TestTrends:
    def test_only_who_may_review_sees_whose_decisions_they_were(self, browser: Browser, url: str) -> None:
        engine = create_engine(url)
        with engine.begin() as connection:
            run_key = connection.scalar(select(runs.c.run_key).where(runs.c.pipeline == NIGHTLY).limit(1))
            override = {"kind": "override", "run_key": run_key, "pipeline": None, "why": "seen"}
            removal = {"kind": "forget", "run_key": None, "pipeline": NIGHTLY, "why": "wrong patient"}
            decided = {"decided_by": "<i>ada", "decided_at": NOW}
            last_month = decided | {"decided_at": NOW - timedelta(days=31)}
            rows = [override | decided, override | decided, removal | decided, override | last_month]
            connection.execute(insert(decisions), rows)
        engine.dispose()

        def rows_of(user: str) -> list[str]:
            page = browser.as_(user).get(f"/trends?pipeline={NIGHTLY}").text
            table = page.partition("Decisions this month</h2>")[2].partition("</table>")[0]
            return [" ".join(re.sub("<[^>]*>", " ", row).split()) for row in re.findall("<tr>.*?</tr>", table)[1:]]

        assert rows_of(OPERATOR) == ["all 2 1"]
        assert rows_of(REVIEWER) == ["all 2 1", "&lt;i&gt;ada 2 1"]


class TestRedrive:
    def test_the_dry_run_comes_first(self, browser: Browser, app: FastAPI) -> None:
        folder = Path(__file__).parents[3] / "include/pipelines"
        app.state.sources = replace(
            app.state.sources, pipelines=lambda: {NIGHTLY: load_pipeline(folder / "nightly.yaml")}
        )
        page = browser.get(f"/redrive/{NIGHTLY}?reasons=truncated&reasons=not_dicom").text
        assert "would go through again" in page
        assert "data-trigger" in page
        refused = browser.get(f"/redrive/{NIGHTLY}?study=0123456789abcdef").text
        assert "No held, quarantined or failed arrival meets the request" in refused
        assert "data-trigger" not in refused

    def test_a_redrive_of_a_group_is_narrowed_to_its_site(self, browser: Browser, app: FastAPI) -> None:
        self.give_files(app)
        group = browser.get(f"/triage/{NIGHTLY}/quarantined/truncated?site=nordhaven").text
        assert f"/redrive/{NIGHTLY}?reasons=truncated&amp;site=nordhaven" in group
        everywhere = browser.get(f"/redrive/{NIGHTLY}?reasons=truncated").text
        there = browser.get(f"/redrive/{NIGHTLY}?reasons=truncated&site=nordhaven").text
        assert there.count("nordhaven") == 2  # in the choice, and in the conf of the run
        assert number_of_files(there) < number_of_files(everywhere)

    def test_a_non_primary_set_is_promoted_or_deleted_by_a_study(self, browser: Browser, url: str) -> None:
        key = one_held_study(url, reason="non_primary")
        page = browser.get(f"/studies/{NIGHTLY}/{key}").text
        assert f"/redrive/{NIGHTLY}?study={key}&amp;non_primary=promote" in page
        assert "non_primary=promote" not in browser.as_(VIEWER).get(f"/studies/{NIGHTLY}/{key}").text
        form = browser.get(f"/redrive/{NIGHTLY}?study={key}&non_primary=delete").text
        assert '"redrive_non_primary": "delete"' in form
        assert 'pattern="DELETE"' in form
        assert browser.get(f"/redrive/{NIGHTLY}?study={key}&non_primary=burn").status_code == 422

    def test_of_a_clinical_pipeline_the_ledger_tells_what_it_knows(
        self, browser: Browser, app: FastAPI, url: str
    ) -> None:
        folder = Path(__file__).parents[3] / "include/pipelines"
        files = load_pipeline(folder / "clinical.yaml").model_copy(update={"name": NIGHTLY})
        app.state.sources = replace(app.state.sources, pipelines=lambda: {NIGHTLY: files})
        sure = number_of_files(browser.get(f"/redrive/{NIGHTLY}?reasons=truncated").text)
        engine = create_engine(url)
        with engine.begin() as connection:
            of_others = update(words).where(words.c.reason == "not_dicom")
            mixed = connection.execute(of_others.values(reason="resources_set_aside")).rowcount
        engine.dispose()
        page = browser.get(f"/redrive/{NIGHTLY}?reasons=truncated").text
        assert number_of_files(page) == sure
        assert 0 < int(re.findall(r"and up to ([\d,]+) more", page)[0].replace(",", "")) <= mixed
        assert "held only because of these come along" in page

    def give_files(self, app: FastAPI) -> None:
        folder = Path(__file__).parents[3] / "include/pipelines"
        files = {NIGHTLY: load_pipeline(folder / "nightly.yaml")}
        app.state.sources = replace(app.state.sources, pipelines=lambda: files)

    def test_without_pipeline_files_the_numbers_are_not_known(self, browser: Browser) -> None:
        assert "is known when it has begun" in browser.get(f"/redrive/{NIGHTLY}?reasons=truncated").text

    @pytest.mark.parametrize("query", ["", "?reasons=none"])
    def test_nothing_chosen_is_refused(self, browser: Browser, query: str) -> None:
        assert browser.get(f"/redrive/{NIGHTLY}{query}").status_code == 422


def test_a_note_is_there_for_the_next_person(browser: Browser, url: str) -> None:
    studies = browser.get(f"/triage/{NIGHTLY}/held/study_incomplete").text
    where = f"/studies/{NIGHTLY}/" + studies.split(f"/studies/{NIGHTLY}/")[1][:16]
    assert browser.post(f"{where}/notes", {"note": "asked the sender"}).headers["location"] == f"/airlock{where}"
    assert "asked the sender" in browser.as_(VIEWER).get(where).text
    assert browser.post(f"{where}/notes", {"note": "x" * 1_001}).status_code == 422


class Account:
    """An account with a list of a run, and with queues of which one cannot be read."""

    def decide(self, pipeline: Any, ledger: Any, record: Any, scope: Any) -> Any:
        return record(ledger)

    def stream_list(self, pipeline: Any, run_key: str, name: str) -> Iterator[bytes]:
        yield from (b"key,disposition\n", b"in/DOE^JANE.dcm,held\n")

    def count_messages(self, pipelines: Any) -> list[QueueDepth]:
        return [
            depth
            for one in pipelines
            for depth in (
                QueueDepth(one.name, "arrivals", 1234, 5, None),
                QueueDepth(one.name, "dead letters", None, None, "AccessDenied"),
            )
        ]


@pytest.fixture
def with_account(app: FastAPI) -> None:
    files = {NIGHTLY: load_pipeline(Path(__file__).parents[3] / "include/pipelines/nightly.yaml")}
    app.state.sources = replace(app.state.sources, pipelines=lambda: files, account=Account())


@pytest.mark.usefixtures("with_account")
class TestAccount:
    def test_the_depth_of_queues_is_shown_and_one_that_cannot_be_read_is_said(self, browser: Browser) -> None:
        page = browser.get("/destinations").text
        assert "Queues of arrivals" in page
        assert "1,234" in page
        assert "cannot be read</span> AccessDenied" in page
        assert "Queues of arrivals" not in browser.as_("outsider").get("/destinations").text

    def test_a_run_s_list_is_a_download_that_is_logged(self, browser: Browser, url: str) -> None:
        where = f"/runs/{NIGHTLY}/{newest_run(url)}/lists/dispositions.csv"
        assert "Download, and log it" in browser.as_(ADMIN).get(f"/runs/{NIGHTLY}").text
        assert "Download, and log it" not in browser.as_(VIEWER).get(f"/runs/{NIGHTLY}").text
        answer = browser.as_(ADMIN).post(where, {"why": "list for the sender"})
        assert (answer.status_code, answer.text) == (200, "key,disposition\nin/DOE^JANE.dcm,held\n")
        assert answer.headers["content-disposition"] == 'attachment; filename="dispositions.csv"'
        engine = create_engine(url)
        with engine.connect() as connection:
            (why,) = connection.scalars(select(decisions.c.why)).all()
        engine.dispose()
        assert why.startswith("dispositions.csv of run ")
        assert why.endswith(": list for the sender")

    @pytest.mark.parametrize(
        ("name", "why", "status"),
        [("dispositions.csv", " ", 422), ("..%2Freport.json", "because", 404), ("x.csv", "b", 404)],
    )
    def test_without_a_reason_or_by_another_name_there_is_no_list(
        self, browser: Browser, url: str, name: str, why: str, status: int
    ) -> None:
        where = f"/runs/{NIGHTLY}/{newest_run(url)}/lists/{name}"
        assert browser.as_(ADMIN).post(where, {"why": why}).status_code == status


def newest_run(url: str) -> str:
    engine = create_engine(url)
    with engine.connect() as connection:
        newest = select(runs.c.run_id).where(runs.c.pipeline == NIGHTLY).order_by(runs.c.started_at.desc())
        found = connection.scalars(newest.limit(1)).one()
    engine.dispose()
    return str(found)


def number_of_files(page: str) -> int:
    """Return the number of files of a dry run."""
    (found,) = re.findall(r"<strong>([\d,]+) files?</strong> would go through again", page)
    return int(found.replace(",", ""))


def one_held_study(url: str, reason: str) -> str:
    """Give a held study of the history this reason, and return its key."""
    engine = create_engine(url)
    with engine.begin() as connection:
        key = connection.scalars(select(gates.c.subject_key).where(gates.c.gate == "hold").limit(1)).one()
        for table in (gates, words):
            column = gates.c.subject_key if table is gates else words.c.study_key
            connection.execute(update(table).where(column == key).values(reason=reason))
    engine.dispose()
    return str(key)
