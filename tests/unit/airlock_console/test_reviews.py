"""Reviews in the console: who opened what, an answer to one or to several, and what is refused with a sentence."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from airflow.api_fastapi.core_api.security import get_user
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, insert, select, update

from airlock.ledger.decision_tables import decisions, reviews
from airlock.ledger.tables import gates
from airlock.storage.s3 import S3
from airlock_console.app import build
from airlock_console.sources import Sources
from airlock_local.sample.history import NIGHTLY, UID_ROOT
from tests.servers.moto import moto_server
from tests.unit.airlock.world import pipeline
from tests.unit.airlock_console.conftest import (
    ADMIN,
    NAMES,
    NOW,
    OPERATOR,
    PREFIX,
    REVIEWER,
    Browser,
    TableRights,
    find_dags,
    find_tasks,
    user_of,
)
from tests.unit.airlock_console.test_rights import read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger.console import Console

WHY = "compared with the source"
TEAM: dict[str, Any] = {"by": "the archive team"}
FROM_A_PAGE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with moto_server() as endpoint:
        session = boto3.Session("testing", "testing", region_name="us-east-1")
        client = session.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="work")
        yield S3(session, client)


@pytest.fixture
def team() -> dict[str, Any]:
    return dict(TEAM)


@pytest.fixture
def browser(console: Console, s3: S3, team: dict[str, Any]) -> Browser:
    """The console with the pipeline's file, as a reviewer sees it."""
    files = {NIGHTLY: pipeline(audit={"on_hold": "review"}, review=team)}
    sources = (TableRights(), lambda: console, find_dags, find_tasks, lambda: NAMES, lambda: files, lambda _: s3)
    app = build(Sources(*sources, lambda: NOW))
    app.dependency_overrides[get_user] = user_of
    server = FastAPI()
    server.mount(PREFIX, app)
    return Browser(TestClient(server, raise_server_exceptions=False), REVIEWER)


@pytest.fixture
def asked(url: str) -> list[int]:
    """Five reviews of one reason and site; their numbers."""
    engine = create_engine(url)
    with engine.begin() as connection:
        row = dict(connection.execute(select(reviews).limit(1)).one()._mapping)
        connection.execute(reviews.delete())
        for each in range(5):
            own = {"subject": f"1.2.{each}", "subject_key": f"{each:016x}", "seen": f"findings {each}"}
            own |= {"reason": "truncated", "reasons": "study_incomplete", "site": "lakeview"}
            connection.execute(insert(reviews).values({k: v for k, v in row.items() if k != "id"} | own))
        found = list(connection.execute(select(reviews.c.id).order_by(reviews.c.id)).scalars())
    engine.dispose()
    return found


def form_of(browser: Browser, number: int, **changes: str) -> dict[str, str]:
    """Return the form of a review's page, filled in."""
    page = browser.get(f"/reviews/{NIGHTLY}/{number}", **FROM_A_PAGE).text
    (seen,) = re.findall(r'name="seen" value="([^"]*)"', page)
    return {"seen": seen, "why": WHY, "answer": "approve"} | changes


def events(url: str) -> list[tuple[str, str, str]]:
    columns = decisions.c.kind, decisions.c.subject, decisions.c.decided_by
    return [tuple(row) for row in read(url, select(*columns).order_by(decisions.c.id))]


def test_the_queue_is_on_tonight_and_triage_by_reason_and_site(browser: Browser, asked: list[int]) -> None:
    assert "5 reviews wait for an answer" in browser.get("/").text
    assert f"/reviews/{NIGHTLY}/of/truncated?site=lakeview" in browser.get("/triage").text
    group = browser.get(f"/reviews/{NIGHTLY}/of/truncated?site=lakeview").text
    assert all(f"/reviews/{NIGHTLY}/{number}" in group for number in asked)


def test_an_answer_is_an_event_with_its_person_and_opens_no_door_to_a_second(
    browser: Browser, asked: list[int], url: str
) -> None:
    first = asked[0]
    both = form_of(browser, first), form_of(browser.as_(ADMIN), first, answer="keep")
    answered = browser.post(f"/reviews/{NIGHTLY}/{first}", both[0])
    assert (answered.status_code, answered.headers["location"]) == (
        303,
        f"{PREFIX}/reviews/{NIGHTLY}/{first}?answered=1",
    )
    late = browser.as_(ADMIN).post(f"/reviews/{NIGHTLY}/{first}", both[1])
    assert late.status_code == 409
    assert f"was answered by {REVIEWER} at" in late.text
    assert events(url) == [
        ("open", "1.2.0", REVIEWER),
        ("open", "1.2.0", ADMIN),
        ("override", "1.2.0", REVIEWER),
    ]
    page = browser.get(f"/reviews/{NIGHTLY}/{first}").text
    assert f'data-apply="{NIGHTLY}__review"' in page
    assert WHY in page


def test_trends_tell_reviewers_who_answers_and_how_fast(browser: Browser, asked: list[int]) -> None:
    browser.post(f"/reviews/{NIGHTLY}/{asked[0]}", form_of(browser, asked[0]))
    page = browser.get(f"/trends?pipeline={NIGHTLY}").text
    row = page.partition("Answers to reviews")[2].partition("<tbody>")[2]
    assert re.search(rf'{REVIEWER}</th><td class="number">1</td><td class="number">100 %</td>', row)
    assert "Answers to reviews" not in browser.as_(OPERATOR).get(f"/trends?pipeline={NIGHTLY}").text


def test_an_answer_about_other_findings_is_refused(browser: Browser, asked: list[int], url: str) -> None:
    form = form_of(browser, asked[0])
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(update(reviews).where(reviews.c.id == asked[0]).values(seen="other findings"))
    engine.dispose()
    refused = browser.post(f"/reviews/{NIGHTLY}/{asked[0]}", form)
    assert (refused.status_code, "has changed since you opened it" in refused.text) == (409, True)
    assert [kind for kind, *_ in events(url)] == ["open"]


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"why": "  "}, 409, "needs a person and a reason"),
        ({"why": "\0x"}, 409, "cannot be stored"),
        ({"answer": "release"}, 422, "Choose whether it is released"),
    ],
)
def test_a_form_that_cannot_count_is_refused_with_a_sentence(
    browser: Browser, asked: list[int], changes: dict[str, str], status: int, said: str
) -> None:
    refused = browser.post(f"/reviews/{NIGHTLY}/{asked[0]}", form_of(browser, asked[0], **changes))
    assert (refused.status_code, said in refused.text) == (status, True), refused.text


def test_who_may_not_answer_gets_no_form_and_opens_nothing(browser: Browser, asked: list[int], url: str) -> None:
    mine = browser.as_(OPERATOR)
    page = mine.get(f"/reviews/{NIGHTLY}/{asked[0]}", **FROM_A_PAGE).text
    assert "You may not answer reviews of this pipeline" in page
    assert 'name="seen"' not in page
    assert mine.post(f"/reviews/{NIGHTLY}/{asked[0]}", {"answer": "approve"}).status_code == 403
    assert events(url) == []


@pytest.mark.parametrize("team", [TEAM | {"assignees": ["kim"], "deputies": [ADMIN]}])
def test_only_assignees_and_deputies_may_answer(browser: Browser, asked: list[int]) -> None:
    refused = browser.post(f"/reviews/{NIGHTLY}/{asked[0]}", form_of(browser, asked[0]))
    assert (refused.status_code, "Only these may answer" in refused.text) == (409, True)
    deputy = browser.as_(ADMIN)
    assert deputy.post(f"/reviews/{NIGHTLY}/{asked[0]}", form_of(deputy, asked[0])).status_code == 303


def test_one_answer_to_several_needs_three_opened_by_the_same_person(
    browser: Browser, asked: list[int], url: str
) -> None:
    where = f"/reviews/{NIGHTLY}/of/truncated"
    form = {"numbers": ",".join(map(str, asked)), "answer": "keep", "why": WHY}
    for number in asked[:2]:
        form_of(browser, number)
    form_of(browser.as_(ADMIN), asked[2])
    assert "open 3 of them first; you have opened 2" in browser.get(f"{where}?site=lakeview").text
    refused = browser.post(where, form)
    assert (refused.status_code, "Open at least 3" in refused.text) == (409, True)
    form_of(browser, asked[2])
    (shown,) = re.findall(r'name="numbers" value="([^"]*)"', browser.get(f"{where}?site=lakeview").text)
    assert shown == form["numbers"]
    answered = browser.post(where, form)
    assert (answered.status_code, answered.headers["location"]) == (303, f"{PREFIX}{where}?site=lakeview")
    assert [kind for kind, *_ in events(url)].count("keep") == len(asked)


def test_a_page_of_another_site_opens_nothing(browser: Browser, asked: list[int], url: str) -> None:
    for site in ("cross-site", "same-site", "none"):
        browser.get(f"/reviews/{NIGHTLY}/{asked[0]}", **{"Sec-Fetch-Site": site})
    assert events(url) == []


def test_without_pipeline_files_the_command_line_is_named(browser: Browser, asked: list[int], app: FastAPI) -> None:
    form = form_of(browser, asked[0])
    app.dependency_overrides[get_user] = user_of
    server = FastAPI()
    server.mount(PREFIX, app)
    bare = Browser(TestClient(server, raise_server_exceptions=False), REVIEWER)
    refused = bare.post(f"/reviews/{NIGHTLY}/{asked[0]}", form)
    assert (refused.status_code, "airlock review answer" in refused.text) == (503, True)


def test_a_review_of_another_pipeline_or_of_none_is_not_there(browser: Browser, asked: list[int]) -> None:
    assert browser.get(f"/reviews/archive/{asked[0]}").status_code == 404
    assert browser.get(f"/reviews/{NIGHTLY}/999999").status_code == 404


@pytest.mark.parametrize("number", ["0", str(2**63), "9" * 5000])
def test_a_number_that_no_review_can_have_is_answered_with_a_sentence(
    browser: Browser, asked: list[int], number: str
) -> None:
    form = {"numbers": f"{number},{asked[0]}", "answer": "keep", "why": WHY}
    for answer in (
        browser.get(f"/reviews/{NIGHTLY}/{number}"),
        browser.post(f"/reviews/{NIGHTLY}/{number}", form),
        browser.post(f"/reviews/{NIGHTLY}/of/truncated", form | {"numbers": number}),
    ):
        assert answer.status_code in {404, 422}, answer.text
        assert "This page failed" not in answer.text


class TestAReviewOfMany:
    SAMPLES = tuple(f"a{each:015x}" for each in range(5))

    @pytest.fixture
    def many(self, asked: list[int], url: str) -> str:
        """The address of a review about a hundred subjects, of which it names a held study and four unknown ones."""
        ((uid,), *_) = read(url, select(gates.c.subject).where(gates.c.gate == "hold"))
        samples = dict.fromkeys(self.SAMPLES, "Patient/unknown") | {self.SAMPLES[0]: uid}
        question = json.dumps({"subjects": 100, "samples": samples})
        group: dict[str, Any] = {"subject": "group/stored_with_issues/", "reason": "stored_with_issues"}
        group |= {"asked_at": datetime(2020, 1, 1, tzinfo=UTC)}  # the history's own time may be ahead of the clock
        group |= {"question": question}
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(update(reviews).where(reviews.c.id == asked[0]).values(group))
        engine.dispose()
        return f"/reviews/{NIGHTLY}/{asked[0]}"

    def test_it_is_answered_after_three_of_its_samples_were_opened(self, browser: Browser, many: str, url: str) -> None:
        page = browser.get(many, **FROM_A_PAGE).text
        links = re.findall(rf'href="{PREFIX}({many}/samples/\w+)"', page)
        assert [link.rpartition("/")[2] for link in links] == list(self.SAMPLES)
        assert "open 3 of those above first; you have opened 0" in page
        assert "Programs that read the data store itself see it" in page
        form = {"seen": "findings 0", "why": WHY, "answer": "approve"}
        for number, link in enumerate([links[0], links[0], links[1], links[2]]):
            refused = browser.post(many, form)
            assert (refused.status_code, "Open at least 3" in refused.text) == (409, True), number
            assert browser.get(link, **FROM_A_PAGE).status_code == 200
        assert browser.as_(ADMIN).post(many, form).status_code == 409, "another person has opened none"
        assert browser.post(many, form_of(browser, int(many.rpartition("/")[2]), answer="keep")).status_code == 303
        opened = select(decisions.c.subject_key).where(decisions.c.kind == "open").order_by(decisions.c.id)
        assert [key for (key,) in read(url, opened)] == ["0" * 16, *self.SAMPLES[:3]]

    def test_two_people_approve_it_and_the_first_approval_is_seen_meanwhile(
        self, browser: Browser, many: str, url: str
    ) -> None:
        number, second = int(many.rpartition("/")[2]), browser.as_(ADMIN)
        for mine in (browser, second):
            for key in self.SAMPLES[:3]:
                mine.get(f"{many}/samples/{key}", **FROM_A_PAGE)
        assert "Approve as the first of two" in browser.get(many).text
        assert browser.post(many, form_of(browser, number)).status_code == 303
        page = browser.get(many).text
        assert f"Approved by one person ({REVIEWER}), a second is needed." in page
        assert ('value="approve"' in page, 'value="keep"' in page) == (False, True)
        for place in ("/", "/triage", f"/reviews/{NIGHTLY}/of/stored_with_issues?site=lakeview"):
            assert re.search("a second (person )?is needed", browser.get(place).text), place
        again = browser.post(many, form_of(browser, number))
        assert (again.status_code, "another person has to approve it too" in again.text) == (409, True)
        assert "override" not in {kind for kind, *_ in events(url)}
        assert "Approve as the second person" in second.get(many).text
        assert second.post(many, form_of(second, number)).status_code == 303
        assert [(kind, person) for kind, _, person in events(url) if kind != "open"] == [
            ("first", REVIEWER),
            ("override", ADMIN),
        ]

    def test_a_link_of_another_site_and_a_reader_open_nothing(self, browser: Browser, many: str, url: str) -> None:
        sample = f"{many}/samples/{self.SAMPLES[0]}"
        assert browser.get(sample, sec_fetch_site="cross-site").status_code == 200
        assert browser.as_(OPERATOR).get(sample, **FROM_A_PAGE).status_code == 200
        assert browser.get(f"{many}/samples/{'f' * 16}", **FROM_A_PAGE).status_code == 404
        assert events(url) == []

    def test_a_sample_is_masked_until_somebody_with_the_right_gives_a_reason(
        self, browser: Browser, many: str, url: str
    ) -> None:
        sample = f"{many}/samples/{self.SAMPLES[0]}"
        page = browser.get(sample).text
        assert f"HELD in {NIGHTLY}" in page
        assert UID_ROOT not in page
        assert browser.as_(OPERATOR).post(sample, {"why": WHY}).status_code == 403
        assert browser.post(sample, {"why": " "}).status_code == 422
        assert events(url) == []
        assert UID_ROOT in browser.post(sample, {"why": WHY}).text
        assert [kind for kind, *_ in events(url)] == ["reveal"]
        gone = browser.get(f"{many}/samples/{self.SAMPLES[1]}").text
        assert "The ledger knows nothing of it any more." in gone

    def test_a_sample_shows_nothing_of_another_data_store(self, browser: Browser, many: str, url: str) -> None:
        engine = create_engine(url)
        with engine.begin() as connection:
            hold = dict(connection.execute(select(gates).where(gates.c.gate == "hold").limit(1)).one()._mapping)
            another = {"subject": "Patient/unknown", "subject_key": "b" * 16, "datastore_id": "f" * 32}
            connection.execute(insert(gates).values(hold | another))
        engine.dispose()
        assert f"HELD in {NIGHTLY}" in browser.post("/find", {"text": "Patient/unknown"}).text
        assert "The ledger knows nothing of it any more." in browser.get(f"{many}/samples/{self.SAMPLES[1]}").text
