"""Files are checked before they are delivered, as a run would check them; nothing is stored."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from airlock.clinical.check_files import (
    LOCAL,
    MOST_GROUPS,
    SERVICE,
    Checked,
    FileChecker,
    IssueTable,
    ask_service,
    without_profiles,
)
from airlock.pipelines import ClinicalParse
from tests.unit.airlock.clinical.books import observation, patient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VALID = {"resourceType": "OperationOutcome", "issue": [{"severity": "information", "code": "informational"}]}
BAD = {"severity": "error", "code": "code-invalid", "diagnostics": "not a code", "expression": ["Patient.name[3].use"]}


def lines(*resources: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(resource).encode() + b"\n" for resource in resources)


def asked(*refused: str) -> Callable[[str], dict[str, Any]]:
    """Return a data store that finds one error in the resources of these ids."""
    return lambda body: VALID | ({"issue": [BAD]} if json.loads(body)["id"] in refused else {})


def checked(body: bytes, name: str = "a.ndjson", ask: Any = None, **limits: float) -> list[Checked]:
    with FileChecker(ClinicalParse.model_validate(limits), ask, 4) as checker:
        return [*checker.check([body[at : at + 1000] for at in range(0, len(body), 1000)], name, len(body))]


def test_the_local_check_comes_first_and_only_what_passes_is_asked_about() -> None:
    seen: list[str] = []

    def ask(body: str) -> dict[str, Any]:
        seen.append(json.loads(body)["id"])
        return asked("p2")(body)

    found = checked(lines(patient("p1"), observation("o1", "p1", status=None), patient("p2")), ask=ask)
    assert [(one.line, one.resource_id, one.source, one.is_wrong) for one in found] == [
        (1, "p1", SERVICE, False),
        (2, "o1", LOCAL, True),
        (3, "p2", SERVICE, True),
    ]
    assert sorted(seen) == ["p1", "p2"]


def test_without_a_data_store_only_the_local_check_is_made() -> None:
    (found,) = checked(lines(patient("p1")))
    assert (found.source, found.issues, found.outcome) == (LOCAL, [], "")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"no json\n{}", "not_json"),
        (b"", "empty_object"),
        (gzip.compress(lines(patient("p1")), mtime=0)[:-20], "truncated"),
        (b'{"resourceType": "Patient"}', "missing_resource_id"),
    ],
)
def test_what_a_run_would_set_aside_is_an_error(body: bytes, said: str) -> None:
    first = checked(body)[0]
    assert first.is_wrong
    assert first.issues[0]["diagnostics"].startswith(said)


def test_a_file_that_is_one_json_text_and_too_large_is_named_with_the_limit() -> None:
    body = json.dumps({"resourceType": "Bundle", "type": "batch", "entry": [{}] * 100_000}, indent=1).encode()
    (found,) = checked(body, "a.json", bundle_mib=0.1)
    assert (found.line, found.issues[0]["diagnostics"]) == (
        0,
        "file_too_large: as one JSON text it is larger than parse.bundle_mib",
    )


def test_memory_does_not_grow_with_the_file() -> None:
    line = lines(patient("p1", address=[{"text": "x" * 2_000}]))

    def stored(count: int) -> Iterator[bytes]:
        yield from (line for _ in range(count))

    peaks = []
    for count in (500, 5_000):
        tracemalloc.start()
        with FileChecker(ClinicalParse(), asked(), 4) as checker:
            assert sum(1 for _ in checker.check(stored(count), "a.ndjson", count * len(line))) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_a_refusal_of_one_resource_is_an_answer_about_it_and_any_other_error_ends_the_check() -> None:
    class RefusedError(RuntimeError):
        status = 400

    def refuse(_: str) -> dict[str, Any]:
        raise RefusedError("HTTP 400")

    (found,) = checked(lines(patient("p1")), ask=ask_service(refuse))
    assert found.is_wrong
    RefusedError.status = 403
    with pytest.raises(RefusedError):
        checked(lines(patient("p1")), ask=ask_service(refuse))


def test_the_table_counts_issues_without_the_numbers_of_list_items_and_names_the_first_place() -> None:
    table = IssueTable()
    for one in checked(lines(*(patient(name) for name in ("p1", "p2", "p3"))), ask=asked("p2", "p3")):
        table.add(one)
    assert (table.resources, table.wrong) == (3, 2)
    errors = [row for row in table.rows() if row["severity"] == "error"]
    assert errors == [
        {
            "severity": "error",
            "source": SERVICE,
            "code": "code-invalid",
            "text": "Patient.name.use: not a code",
            "resources": 2,
            "first": "a.ndjson:2",
        }
    ]
    assert table.rows()[0] == errors[0]


def test_the_table_is_bounded() -> None:
    table = IssueTable()
    for number in range(MOST_GROUPS + 50):
        issue = {"severity": "error", "code": "invalid", "diagnostics": f"fault {number}"}
        table.add(Checked("a", number + 1, "Patient", "p", SERVICE, [issue], "{}"))
    assert len(table.rows()) == MOST_GROUPS + 1
    assert max(row["resources"] for row in table.rows() if row["text"] == "further issues") == 50


@pytest.mark.parametrize("value", ["'1980-13-45'", '"1980-13-45"'])
def test_the_table_has_nothing_that_an_answer_quotes(value: str) -> None:
    table = IssueTable()
    issue = {"severity": "error", "code": "invalid", "diagnostics": f"Invalid date: {value}"}
    table.add(Checked("a", 1, "Patient", "p", SERVICE, [issue], "{}"))
    assert [row["text"] for row in table.rows()] == ["Invalid date: '…'"]


@pytest.mark.parametrize(
    "said",
    [
        "The name 'O'Brien' is not known",
        'The name "Anne "Nan" Brien" is not known',
        "The value 'O\u2019Brien and more, " + "Brien " * 200 + "' is too long",
        "Invalid name “Brien”",
        "Invalid name `Brien`",
    ],
)
def test_nor_what_it_quotes_with_other_signs_or_in_part(said: str) -> None:
    table = IssueTable()
    issue = {"severity": "error", "code": "invalid", "diagnostics": said}
    table.add(Checked("a", 1, "Patient", "p", SERVICE, [issue], "{}"))
    assert "Brien" not in table.rows()[0]["text"]


def test_the_line_of_an_outcome_has_the_form_of_a_runs_list() -> None:
    (found,) = checked(lines(patient("p1")), ask=asked("p1"))
    line = json.loads(found.to_json())
    assert list(line) == ["key", "line", "resource_type", "resource_id", "source", "outcome"]
    assert line["outcome"]["issue"] == [BAD]


def test_profiles_are_left_out_and_nothing_else() -> None:
    resource = patient("p1", meta={"profile": ["http://hospital.example/p"], "tag": [{"code": "x"}]})
    assert json.loads(without_profiles(json.dumps(resource)))["meta"] == {"tag": [{"code": "x"}]}
    assert "meta" not in json.loads(without_profiles(json.dumps(patient("p1", meta={"profile": []}))))
    assert without_profiles('{"id": "p1", "value": 1.10}') == '{"id": "p1", "value": 1.10}'
