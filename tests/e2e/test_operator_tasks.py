"""What an operator does at six in the morning, in Chromium on the real stack, with what it costs them.

The stack has the sample, a study with a non-primary image set, a DAG run that failed, a queue with dead letters, and in
its ledger ninety nights of two further pipelines, of which three were bad. Each task begins on Tonight. Its clicks, the
fields that it types and the filters that it chooses are counted; their median is at most `MOST`. The table is printed.
"""

from __future__ import annotations

import csv
import sqlite3
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from airlock.run import run_key
from airlock_local.environment import USER, read_secrets
from airlock_local.sample.history import ARCHIVE, NIGHTLY, PATIENT, write_history
from tests.browser import open_browser
from tests.dicom_files import ct
from tests.e2e.conftest import PATIENCE, _waking, free_ports, imaging_pipeline, stopped_after, until
from tests.integration.golden.nasty_images import nasty_images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.browser import Page
    from tests.e2e.conftest import Machine

pytestmark = [pytest.mark.proof, pytest.mark.slow, pytest.mark.timeout(1200)]

MOST = 3  # clicks, fields and filters of the median task
SITE = "nordhaven"
FAILS, WAKES, ASKS = "refused", "arriving", "asking"


@dataclass
class Person:
    """An operator at a browser: what they do is counted."""

    page: Page
    machine: Machine
    downloads: Path
    clicks: int = 0
    fields: int = 0
    filters: int = 0

    @property
    def cost(self) -> int:
        """All that the person did."""
        return self.clicks + self.fields + self.filters

    def click(self, selector: str, words: str = "") -> None:
        self.clicks += 1
        self.page.click(selector, words)

    def choose(self, facet: str, value: str) -> None:
        """Open a facet of Triage and choose a value."""
        self.clicks += 1
        self.filters += 1
        self.page.click(".facets summary", facet)
        self.page.click(".facets a", value)

    def write(self, selector: str, words: str) -> None:
        self.fields += 1
        self.page.write(selector, words)

    def sees(self, *words: str) -> None:
        for one in words:
            self.page.shows(one)

    def is_at(self, path: str) -> None:
        """Wait for the page of Airflow that a start leads to; before that, it would overtake what is opened next."""
        until(f"the browser is at {path}", lambda: path in self.page.evaluate("location.pathname"), PATIENCE)

    def go(self, page: str) -> None:
        """Open a page of the console by its navigation."""
        self.click("nav a", page)

    def open_pipeline(self, name: str) -> None:
        self.click("tbody th a", name)

    def open_group(self, pipeline: str, disposition: str, reason: str, site: str | None = None) -> None:
        end = "" if site is None else f"?site={site}"
        self.click(f"a[href*='/triage/{pipeline}/{disposition}/{reason}{end}']", reason)

    def file_named(self, name: str) -> Path:
        """Wait for a download."""
        return until(f"{name} is there", lambda: next(self.downloads.glob(name), None), PATIENCE)


TASKS: dict[str, Callable[[Person], None]] = {}  # in this order: some start a run of the sample, which others look at


def task(what: str) -> Callable[[Callable[[Person], None]], Callable[[Person], None]]:
    """Add a task to the list."""

    def add(do: Callable[[Person], None]) -> Callable[[Person], None]:
        TASKS[what] = do
        return do

    return add


@task("did last night balance?")
def _(person: Person) -> None:
    person.open_pipeline("sample")
    person.sees("Books balance.")


@task("the list of a run's files")
def _(person: Person) -> None:
    person.open_pipeline("sample")
    person.click("summary", "dispositions.csv")
    person.write("input[name=why]", "the archive team corrects them")
    person.click("form button", "Download, and log it")
    assert "arrival_id" in person.file_named("dispositions.csv").read_text()


@task("what is held for more than a day, and what do I do?")
def _(person: Person) -> None:
    person.click("a.button", "Open triage")
    person.sees("study_incomplete", "Another file of the study was not imported.")


@task("why is this study not there?")
def _(person: Person) -> None:
    person.go("Find")
    person.write("input[name=text]", study_with(person.machine, "truncated"))
    person.click("form button[type=submit]", "Find")
    person.sees("truncated", "Ask the sender to send it again.")


@task("where is this object?")
def _(person: Person) -> None:
    person.go("Find")
    person.write("input[name=text]", f"s3://airlock-archive/sample/{delivered(person)}spelling/blanks-1.dcm")
    person.click("form button[type=submit]", "Find")
    person.sees("IN ORDER", "released by the audit")


@task("redrive a reason at one site")
def _(person: Person) -> None:
    person.go("Triage")
    person.open_group(NIGHTLY, "quarantined", "truncated", SITE)
    person.click("a.button", "Redrive these")
    person.write("input[name=redrive_why]", "the sender has sent them again")
    person.click("form button[type=submit]", "Start the redrive")
    conf = started(person, NIGHTLY)
    assert conf["redrive_reasons"] == ["truncated"]
    assert conf["redrive_site"] == SITE


@task("promote a non-primary image set")
def _(person: Person) -> None:
    person.go("Triage")
    person.open_group("sample", "held", "non_primary")
    person.click("tbody td a")
    person.click("a.button", "Promote: correct the attributes and merge")
    person.write("input[name=redrive_why]", "the same series, written 1 and 01")
    person.click("form button[type=submit]", "Start the redrive")
    assert started(person, "sample")["redrive_non_primary"] == "promote"


@task("a list for the sender")
def _(person: Person) -> None:
    person.go("Triage")
    person.open_group(NIGHTLY, "quarantined", "truncated", SITE)
    person.click("a.button", "List for the sender")
    text = person.file_named(f"{NIGHTLY}-truncated.csv").read_text()
    assert "what_to_do" in text
    assert PATIENT not in text


@task("clear a run from the task that failed")
def _(person: Person) -> None:
    person.open_pipeline(FAILS)
    person.click("button", "Clear from the task that failed")
    person.click("dialog button", "Clear")
    with person.machine.api() as api:
        run = newest_run(person.machine, FAILS)
        until("the run goes on", lambda: api.run_state(FAILS, run) != "failed")
    person.is_at(f"/dags/{FAILS}/runs/")


@task("plan a month of the archive")
def _(person: Person) -> None:
    person.go("Migration")
    person.click("summary", "By month of the archive")
    person.click(f"button[data-dag='{ARCHIVE}']", "Backfill")
    person.click("dialog button", "Plan these days first")
    conf = started(person, ARCHIVE)
    assert conf["plan_only"] is True
    assert conf["window_start"].endswith("-01T00:00:00Z")


@task("backfill a month of the archive")
def _(person: Person) -> None:
    person.go("Migration")
    person.click("summary", "By month of the archive")
    person.click(f"button[data-dag='{ARCHIVE}']", "Backfill")
    person.click("dialog button", "Start the backfill")
    until("Airflow has the backfill", lambda: backfills(person.machine), PATIENCE)
    person.is_at(f"/dags/{ARCHIVE}/backfills")


@task("does a queue grow?")
def _(person: Person) -> None:
    person.go("Destinations")
    person.sees("Queues of arrivals", WAKES, "These messages are not S3 notifications.")


@task("a destination is up again: send what was given up")
def _(person: Person) -> None:
    person.click("a.button", "Open destinations")
    person.click("form button", "Queue again")
    person.sees("messages are due")


@task("does a site's reject rate rise?")
def _(person: Person) -> None:
    person.go("Trends")
    person.click("a.button", NIGHTLY)
    person.sees("Reject rate by site", SITE)


@task("print the statement for the cut-over")
def _(person: Person) -> None:
    person.go("Migration")
    person.click(f"a[href*='/migration/{ARCHIVE}/statement']")
    person.sees("Clinical safety", "unexplained")
    person.page.evaluate("window.print = () => { window.printed = true; }, 0")
    person.click("button", "Print")
    assert person.page.evaluate("window.printed") is True


@task("show identifiers, and find that in the log")
def _(person: Person) -> None:
    person.click("a.button", "Open triage")
    person.open_group(NIGHTLY, "held", "study_incomplete", SITE)
    person.click("tbody td a")
    person.sees("HELD in")
    assert PATIENT not in person.page.text()
    person.click("summary", "Show identifiers")
    person.write("input[name=why]", "the sender asks which study")
    person.click("button[type=submit]", "Show, and log it")
    person.sees(PATIENT, "Who has seen identifiers here", "the sender asks which study")


@task("what has waited for a month?")
def _(person: Person) -> None:
    person.go("Triage")
    person.choose("age", "over 30 days")
    person.sees("age: over 30 days", "what to do")


@task("how far is the run that goes on?")
def _(person: Person) -> None:
    person.click(f"aside a[href*='/runs/{ARCHIVE}/'] code")
    person.sees("Not audited yet.", "import jobs")


@task("the morning mail")
def _(person: Person) -> None:
    person.click("summary", "For the morning mail")
    person.click("button", "Copy")
    assert NIGHTLY in person.page.evaluate("window.getSelection().toString()")


@task("leave a note for the next shift")
def _(person: Person) -> None:
    person.click("a.button", "Open triage")
    person.open_group(NIGHTLY, "held", "study_incomplete", SITE)
    person.click("tbody td a")
    person.write("input[name=note]", "asked the sender")
    person.click("form button", "Add")
    person.sees("asked the sender", USER)


@task("is more rejected than usual?")
def _(person: Person) -> None:
    person.click("a.button", "See the reasons")
    person.sees("median of 14 nights", "high")


@task("what does the service say, and what is proven?")
def _(person: Person) -> None:
    person.open_pipeline(NIGHTLY)
    person.sees("A job's status proves nothing.", "each line matched")


@task("is a pipeline switched off?")
def _(person: Person) -> None:
    person.sees("Next runs", "paused")


@task("how much is left, and until when?")
def _(person: Person) -> None:
    person.go("Migration")
    person.sees("left.", "At the pace of the last")


@task("is something released and not on its way?")
def _(person: Person) -> None:
    person.go("Destinations")
    person.sees("Released, and not queued for any destination", "not matched yet")


@task("approve one study with a reason")
def _(person: Person) -> None:
    run = ask(person)
    open_first_review(person)
    person.write("input[name=why]", "the lost file is a copy of the first")
    person.click("form button", "Approve")
    person.sees("Started.")
    released = {"held": 1, "quarantined": 2, "released": 1}
    until("it is released", lambda: dispositions(person.machine, run) == released, PATIENCE)
    (word,) = person.machine.report(ASKS, run)["overrides"]
    assert (word["overridden_by"], word["override_reason"]) == (USER, "the lost file is a copy of the first")
    until("it is routed", lambda: person.machine.contracts(f"{ASKS}/"), PATIENCE)
    (contract,) = person.machine.contracts(f"{ASKS}/")
    assert contract["override"]["overridden_by"] == USER
    assert answers(person.machine, run) == [("override", USER, "the lost file is a copy of the first")]


@task("keep one held")
def _(person: Person) -> None:
    open_first_review(person)
    person.write("input[name=why]", "the site sends it again")
    person.click("form button", "Keep held")
    person.sees("Answered.", "the site sends it again")
    with person.machine.api() as api:
        run = str(api.runs(ASKS)[0]["dag_run_id"])
    key = run_key(ASKS, run)
    assert answers(person.machine, key)[-1] == ("keep", USER, "the site sends it again")
    assert dispositions(person.machine, key)["held"] == 1


def ask(person: Person) -> str:
    """Deliver two studies of which a file each is cut off, open Tonight when the run has ended, and return its key."""
    machine = person.machine
    files = {f"{study}/1.dcm": ct(study, 1, 1) for study in (910, 911)}
    machine.put(files | {f"{study}/2.dcm": ct(study, 1, 2)[:-100] for study in (910, 911)}, f"{ASKS}/")
    with machine.api() as api:
        until("the DAG is there", lambda: api.dag(ASKS))
        api.unpause(ASKS)
        run = api.trigger(ASKS, {})
        until("the run ends", lambda: api.run_state(ASKS, run) in {"success", "failed"})
        assert api.run_state(ASKS, run) == "success"
    person.page.open(f"{machine.settings.api_url}/airlock/")
    return run_key(ASKS, run)


def open_first_review(person: Person) -> None:
    person.click(f"a.button[href*='pipeline={ASKS}']", "Open the reviews")
    person.click(f"#reviews a[href*='/reviews/{ASKS}/of/']")
    person.click("tbody td a")
    person.sees("study_incomplete")


def dispositions(machine: Machine, run: str) -> dict[str, int]:
    return dict(machine.report(ASKS, run)["dispositions"])


def answers(machine: Machine, run: str) -> list[tuple[str, str, str]]:
    """Return the answers to reviews of a run in the decision log, with who gave them."""
    with sqlite3.connect(machine.settings.ledger_url.removeprefix("sqlite:///")) as ledger:
        statement = "SELECT kind, decided_by, why FROM decisions WHERE run_key = ? AND kind != 'open' ORDER BY id"
        return list(ledger.execute(statement, [run]))


def study_with(machine: Machine, reason: str) -> str:
    """Return the StudyInstanceUID of a file of the sample with this reason."""
    with sample_list(machine).open(encoding="utf-8", newline="") as lines:
        found = (row["study_instance_uid"] for row in csv.DictReader(lines) if row["reason"] == reason)
        return next(filter(None, found))


def sample_list(machine: Machine) -> Path:
    """Return the list of the first run, which is the sample's."""
    return min((machine.settings.var / "reports").glob("*/dispositions.csv"), key=lambda path: path.stat().st_mtime)


def delivered(person: Person) -> str:
    """Return the folder below the pipeline's source into which make run has put the study with two image sets."""
    keys = person.machine.s3().list_objects_v2(Bucket="airlock-archive", Prefix="sample/")["Contents"]
    key = next(item["Key"] for item in keys if item["Key"].endswith("spelling/blanks-1.dcm"))
    return str(key).removeprefix("sample/").removesuffix("spelling/blanks-1.dcm")


def newest_run(machine: Machine, dag: str) -> str:
    with machine.api() as api:
        return str(max(api.runs(dag), key=lambda run: str(run["run_after"]))["dag_run_id"])


def started(person: Person, dag: str) -> dict[str, Any]:
    """Wait until Airflow shows the run that the page has started, and return its conf."""
    person.is_at(f"/dags/{dag}/runs/")
    with person.machine.api() as api:
        newest = max(api.runs(dag), key=lambda run: str(run["run_after"]))
    assert newest["triggering_user_name"] == USER
    return dict(newest["conf"])


def backfills(machine: Machine) -> bool:
    with machine.api() as api:
        return bool(api._call("GET", "/api/v2/backfills", params={"dag_id": ARCHIVE})["backfills"])


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("morning")
    pipelines = folder / "pipelines"
    pipelines.mkdir()
    api, s3, health = free_ports(3)
    imaging_pipeline(pipelines, "sample", "1", healthlake=None, receive={"quiet_seconds": 0})
    imaging_pipeline(pipelines, FAILS, "2", healthlake=None, receive={"quiet_seconds": 0}, retries=2)
    by_day = {"cron": "0 2 * * *", "start_date": "2015-01-01"}
    imaging_pipeline(pipelines, NIGHTLY, "3", healthlake=None, schedule=by_day)
    imaging_pipeline(pipelines, ARCHIVE, "4", healthlake=None, schedule=by_day)
    _waking(pipelines, WAKES, "5", s3, schedule={"cron": None})
    imaging_pipeline(
        *(pipelines, ASKS, "6"),
        healthlake=None,
        receive={"quiet_seconds": 0},
        audit={"on_hold": "review"},
        review={"by": "the archive team", "assignees": [USER]},
        routes=[{"name": "contracts", "uri": f"s3://airlock-contracts/{ASKS}/"}],
    )
    (folder / "var").mkdir()
    with stopped_after(folder, api, s3, health) as made:
        write_history(made.settings.ledger_url)
        for source in ("", odd_study(folder)):
            done = made.make_run(source, "sample")
            assert done.returncode == 0, done.stdout + done.stderr
        fail(made)
        queue = made.arrivals(WAKES).dead_letter_queue_url
        made.sqs().send_message(QueueUrl=queue, MessageBody="hello")
        yield made


def odd_study(folder: Path) -> Path:
    """Write studies whose image sets HealthImaging does not merge, since a number is spelled in two ways."""
    for name, body in nasty_images().items():
        if name.startswith("spelling/"):
            path = folder / "odd" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
    return folder / "odd"


def fail(machine: Machine) -> None:
    """Let a run that waits for the service be marked as failed; nothing stands in its way any more then."""
    machine.put({"a.dcm": ct(900, 1, 1)}, f"{FAILS}/")
    machine.faults({"kind": "throttle_storm", "operation": "StartDICOMImportJob"})
    with machine.api() as api:
        until("the DAG is there", lambda: api.dag(FAILS))
        api.unpause(FAILS)
        run = api.trigger(FAILS, {})
        until("the import waits", lambda: import_state(machine, run) in {"running", "deferred", "up_for_retry"})
        api._call("PATCH", f"/api/v2/dags/{FAILS}/dagRuns/{quote(run, safe='')}", json={"state": "failed"})
        until("the run has failed", lambda: api.run_state(FAILS, run) == "failed")
    machine.faults()


def import_state(machine: Machine, run: str) -> str | None:
    with machine.api() as api:
        return next((task["state"] for task in api.task_instances(FAILS, run) if task["task_id"] == "import"), None)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(machine: Machine, downloads: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(tmp_path_factory.mktemp("browser"), width=1600, height=1000) as page:
        page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        page.log_in(machine.settings.api_url, USER, read_secrets(machine.settings).password)
        yield page


@pytest.fixture
def person(machine: Machine, browser: Page, downloads: Path) -> Person:
    browser.open(f"{machine.settings.api_url}/airlock/")
    browser.shows("What to do now")
    return Person(browser, machine, downloads)


COSTS: dict[str, Person] = {}


@pytest.mark.parametrize("what", TASKS)
def test_an_operator_can(person: Person, what: str) -> None:
    TASKS[what](person)
    COSTS[what] = person


def test_a_usual_task_costs_at_most_three_clicks_fields_and_filters() -> None:
    assert COSTS.keys() == TASKS.keys(), "a task failed, or was not run"
    for what, person in COSTS.items():
        print(f"{what:<55} {person.clicks:>2} clicks {person.fields:>2} fields {person.filters:>2} filters")  # noqa: T201
    assert len(TASKS) >= 20
    assert median(person.cost for person in COSTS.values()) <= MOST
