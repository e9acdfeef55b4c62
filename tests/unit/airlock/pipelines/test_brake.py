"""``audit.brake``: on by default, off by the word, and limits that are shares."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from airlock.pipelines import Brake, ImagingPipeline
from tests.chain import ccda_pipeline, clinical_pipeline
from tests.unit.airlock.world import pipeline

LINES: dict[str, Any] = {"imaging": pipeline, "clinical": clinical_pipeline, "ccda": ccda_pipeline}


def brake(text: str) -> Any:
    line: ImagingPipeline = pipeline(audit=yaml.safe_load(text))
    return line.audit.brake


@pytest.mark.parametrize("kind", LINES)
def test_every_kind_has_a_brake_unless_its_file_says_otherwise(kind: str) -> None:
    assert LINES[kind]().audit.brake == Brake()
    assert LINES[kind](audit={"brake": "off"}).audit.brake == "off"


@pytest.mark.parametrize("text", ["brake: off", "brake: 'off'", "brake: false", "brake: no"])
def test_off_is_read_however_yaml_reads_it(text: str) -> None:
    assert brake(text) == "off"


@pytest.mark.parametrize("text", ["brake: on", "brake: {}", "brake: true", "{}"])
def test_on_has_the_defaults(text: str) -> None:
    assert brake(text) == Brake(least_arrivals=500, unread=0.02, one_reason=0.1, held=0.2, times_median=5)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("brake: {unread: 2}", "unread"),  # a share, not per cent
        ("brake: {held: 0}", "held"),
        ("brake: {one_reason: 20 %}", "one_reason"),
        ("brake: {least_arrivals: 1}", "least_arrivals"),
        ("brake: {times_median: 1}", "times_median"),
        ("brake: {answer_hours: 0}", "answer_hours"),
        ("brake: {hold: 0.2}", "hold"),
        ("brake: never", "brake"),
    ],
)
def test_a_wrong_limit_is_refused_by_its_name(text: str, field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        brake(text)


def test_a_wrong_limit_is_the_only_error() -> None:
    with pytest.raises(ValidationError) as told:
        brake("brake: {held: 5}")
    assert [error["loc"][-1] for error in told.value.errors()] == ["held"]


@pytest.mark.parametrize("word", ["never", "7", "null"])
def test_of_another_word_it_says_what_to_write(word: str) -> None:
    with pytest.raises(ValidationError, match="write off, on or the limits"):
        brake(f"brake: {word}")
