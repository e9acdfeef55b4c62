"""Airlock against GET only of the same ranges: both make the same requests, and Airlock reads what pydicom reads."""

import json
from pathlib import Path

import polars as pl
import pytest
from benchmarks.series import count_differing, measure

from airlock.records import HEADERS


@pytest.mark.slow
def test_both_ask_for_the_same(tmp_path: Path) -> None:
    found = measure(tmp_path, pairs=1, count=7)  # the last one has long headers

    airlock, get_only = found["airlock"], found["get_only"]
    assert (found["series"], airlock["differing"]) == (7, 0)
    assert airlock["requests_per_object"] == pytest.approx(get_only["requests_per_object"], abs=0.05)
    assert found["ratio"] > 0


def test_an_object_differs_if_any_value_does(tmp_path: Path) -> None:
    (tmp_path / "known.json").write_text(json.dumps({"one": {"PatientID": "1", "Modality": "CT"}}))
    arrivals = pl.DataFrame({"etag": ["one"] * 3})
    values = {"arrival_id": ["a", "b", "c"], "PatientID": ["1", "2", "1"], "Modality": ["CT", "CT", None]}
    headers = pl.concat([HEADERS.to_frame(), pl.DataFrame(values)], how="diagonal").select(HEADERS.names())

    assert count_differing([headers], arrivals, tmp_path) == 2
