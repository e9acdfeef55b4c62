"""Which file a result line is about, in whatever form AWS writes its key; what can be two files is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airlock.imaging.input_files import TWO_FILES, name_files
from airlock.imaging.outcomes import account, find_discrepancies
from tests.unit.airlock.job_output import files, output
from tests.unit.airlock.world import ended_job

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = "in/b1/"
JOB = ended_job(input_uri=f"s3://archive/{PREFIX}")
FORMS: dict[str, Callable[[str], str]] = {
    "key": str,
    "relative": lambda key: key.removeprefix(PREFIX),
    "uri": lambda key: f"s3://archive/{key}",
    "percent_encoded": quote,
    "percent_encoded_slashes": lambda key: quote(key, safe=""),
    "form_encoded": quote_plus,
    "relative_percent_encoded": lambda key: quote(key.removeprefix(PREFIX)),
    "uri_percent_encoded": lambda key: f"s3://archive/{quote(key)}",
}


def told(keys: list[str], names: dict[str, tuple[str, str]]) -> list[str]:
    """Return what becomes of these files, of which some are named: the name and the kind of its line."""
    lines: list[dict[str, Any]] = [{"staged_key": name, "kind": kind} for name, kind in names.values()]
    return account(files(*keys), JOB, name_files(files(*keys), JOB, output(*lines)))["outcome"].to_list()


plain = st.text("abcäß ~()&", min_size=1, max_size=4)
odd = st.text("a %+20/:", min_size=1, max_size=5) | st.sampled_from(["a b", "a%20b", "a+b", "a%2520b", PREFIX + "a"])
kinds = st.sampled_from(["success", "failure"])


@st.composite
def deliveries(draw: st.DrawFn, names: st.SearchStrategy[str]) -> dict[str, str]:
    """Return the kind of line of each key of a batch."""
    return draw(st.dictionaries(names.map(lambda name: PREFIX + name), kinds, min_size=1, max_size=5))


@settings(max_examples=100)
@given(lines=deliveries(plain | odd), form=st.sampled_from([*FORMS]))
def test_every_form_says_what_the_key_says_where_every_file_is_named(lines: dict[str, str], form: str) -> None:
    keys = list(lines)
    usual = ["imported" if kind == "success" else "rejected" for kind in lines.values()]
    assert told(keys, {key: (key, kind) for key, kind in lines.items()}) == usual
    found = told(keys, {key: (FORMS[form](key), kind) for key, kind in lines.items()})
    assert all(one in (other, "unaccounted") for one, other in zip(found, usual, strict=True))
    if not any(letter in key for key in keys for letter in "%+") and not any(PREFIX * 2 in key for key in keys):
        assert found == usual


@settings(max_examples=100)
@given(lines=deliveries(plain | odd), data=st.data())
def test_partial_and_mixed_forms_never_say_anything_of_another_file(lines: dict[str, str], data: st.DataObject) -> None:
    keys = list(lines)
    named = {
        key: (data.draw(st.sampled_from([*FORMS.values()]))(key), kind)
        for key, kind in lines.items()
        if data.draw(st.booleans())
    }
    found = told(keys, named)
    believed = {"success": "imported", "failure": "rejected"}
    for key, one in zip(keys, found, strict=True):
        assert one == "unaccounted" or (one == believed[lines[key]] and key in named) or _may_be(key, named)


def _may_be(key: str, named: dict[str, tuple[str, str]]) -> bool:
    """Say whether a line about another file is spelled as this one: then nobody can tell."""
    names = {name for other, (name, _) in named.items() if other != key}
    return any(form(key) in names for form in FORMS.values())


@pytest.mark.parametrize("name", ["in/b1/a%20b", "a%20b", "s3://archive/in/b1/a%20b"])
def test_a_name_that_can_be_two_files_of_the_batch_is_none(name: str) -> None:
    keys = ["in/b1/a%20b", "in/b1/a b"]
    named = name_files(files(*keys), JOB, output({"staged_key": name, "kind": "success"}))
    rows = account(files(*keys), JOB, named)
    assert rows["outcome"].to_list() == ["unaccounted"] * 2
    assert rows["detail"].to_list() == [f"1 result lines cannot be read: 1 have {TWO_FILES}"] * 2
    assert f"1 result lines cannot be read: 1 have {TWO_FILES}" in find_discrepancies(files(*keys), named)


@pytest.mark.parametrize("form", ["key", "percent_encoded"])
def test_a_form_that_explains_every_line_of_the_job_is_the_jobs(form: str) -> None:
    keys = ["in/b1/a%20b", "in/b1/a b"]
    lines = {"in/b1/a%20b": "success", "in/b1/a b": "failure"}
    assert told(keys, {key: (FORMS[form](key), kind) for key, kind in lines.items()}) == ["imported", "rejected"]


@pytest.mark.parametrize("name", ["s3://other/in/b1/a", "in/b2/a", "/in/b1/a", "b1/a", "in/b1/A", ""])
def test_a_name_of_no_file_of_the_batch_stays_a_foreign_one(name: str) -> None:
    named = name_files(files("in/b1/a"), JOB, output({"staged_key": name, "kind": "success"}))
    assert named.lines["staged_key"].to_list() == [name]
    assert "1 result lines name files that are not in the batch" in find_discrepancies(files("in/b1/a"), named)


def test_a_file_that_is_named_in_two_forms_is_one() -> None:
    lines = [
        {"staged_key": "in/b1/a", "kind": "success"},
        {"staged_key": "a", "kind": "warning", "warnings": ["OTHER"]},
    ]
    named = name_files(files("in/b1/a"), JOB, output(*lines))
    assert account(files("in/b1/a"), JOB, named)["outcome"].to_list() == ["imported_with_warning"]


def test_no_lines_are_none() -> None:
    assert told(["in/b1/a"], {}) == ["unaccounted"]
