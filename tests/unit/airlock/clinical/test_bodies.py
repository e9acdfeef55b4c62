"""The texts that are sent: references replaced where they have to be, and nothing else touched."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlock.clinical.bodies import read_bodies, rewritten
from airlock.clinical.records import REWRITES, VERDICTS
from tests.unit.airlock.clinical.books import observation, patient
from tests.unit.airlock.clinical.world import pretty, validated

if TYPE_CHECKING:
    from tests.unit.airlock.world import World

OLD, NEW = "urn:uuid:1", "Patient/new"
# Texts in which the words of a reference stand as ordinary content.
TRAPS = st.sampled_from(
    [OLD, NEW, '"reference":"urn:uuid:1"', "reference", '\\"reference\\": \\"urn:uuid:1\\"', "é\\", ""]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TRAPS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(TRAPS | st.sampled_from(["reference", "display", "a"]), inner, max_size=4)
    ),
    max_leaves=15,
)


def replaced(content: Any) -> Any:
    """Return what a rewriting must give, on the content instead of the text."""
    if isinstance(content, list):
        return [replaced(item) for item in content]
    if isinstance(content, dict):
        return {
            name: NEW if name == "reference" and value == OLD else replaced(value) for name, value in content.items()
        }
    return content


@given(VALUES, st.sampled_from([None, 1]), st.sampled_from([(",", ":"), (" , ", " : ")]), st.booleans())
def test_references_are_replaced_and_nothing_else(
    content: Any, indent: int | None, separators: tuple[str, str], ascii_only: bool
) -> None:
    text = json.dumps(content, indent=indent, separators=separators, ensure_ascii=ascii_only)
    expected = json.dumps(replaced(content), indent=indent, separators=separators, ensure_ascii=ascii_only)
    assert rewritten(text, {OLD: NEW}) == expected


@pytest.mark.parametrize(
    "text", [r'{"reference":"urn\u003auuid:1"}', r'{"\u0072eference":"urn:uuid:1"}', '{"reference" :\n"urn:uuid:1"}']
)
def test_a_reference_is_known_however_it_is_written(text: str) -> None:
    assert json.loads(rewritten(text, {OLD: NEW})) == {"reference": NEW}


def test_decimals_and_layout_stay() -> None:
    text = '{ "value": 70.10, "exp": 1E2,\t"subject": {"reference": "urn:uuid:1", "display": "é"} }'
    assert rewritten(text, {OLD: NEW}) == text.replace(OLD, NEW)


def test_bodies_come_with_their_units_each_on_one_line(world: World) -> None:
    weights = [observation(f"o{number}", "p1", note=[{"text": "é" * 20_000}]) for number in range(60)]
    run = validated(world, {"a.json": pretty(patient("p1")), "b.ndjson": weights}, parse={"chunk_mib": 1})
    units = run.workspace.read("verdicts", VERDICTS).sample(fraction=1, shuffle=True, seed=1)
    pieces = list(read_bodies(run, units, run.workspace.read("rewrites", REWRITES)))
    assert len(pieces) == units["chunk"].n_unique() > 1
    for piece in pieces:
        wanted = units.filter(pl.col("chunk") == piece["chunk"][0])["resource_id"]
        assert piece["resource_id"].to_list() == wanted.to_list()
        assert [json.loads(body)["id"] for body in piece["body"]] == wanted.to_list()
        assert not any("\n" in body or "\r" in body for body in piece["body"])
