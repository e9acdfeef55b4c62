"""The words, and keys of our own."""

from __future__ import annotations

from airlock.records import ARRIVALS, ATTRIBUTES, HEADERS, VERDICTS, Stage, arrival_id, digest, study_key


def test_the_stages_are_the_eight_of_the_design() -> None:
    assert [*Stage] == ["receive", "buffer", "parse", "validate", "normalize", "import", "audit", "route"]


def test_another_object_version_is_another_arrival() -> None:
    one = ("archive", "in/x", None, "etag", 10)
    others = [("other", *one[1:]), ("archive", "in/y", *one[2:]), ("archive", "in/x", "v2", "etag", 10)]
    others += [(*one[:3], "etag2", 10), (*one[:4], 11)]
    ids = {arrival_id(*values) for values in (one, *others)}
    assert len(ids) == 6
    assert all(len(key) == 32 for key in ids)


def test_a_digest_tells_parts_apart_and_takes_any_text() -> None:
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")
    assert digest("\udcff") != digest("?")
    assert digest("x", length=8) == digest("x")[:8]


def test_a_study_key_is_stable_and_reveals_nothing() -> None:
    uid = "1.2.840.113619.2"
    assert study_key(uid) == "8d49d2f8e6dc0d88"  # in ledgers and contracts: it must never change
    assert study_key(f"{uid}.1") != study_key(uid)


def test_each_dataset_carries_what_the_next_stage_reads() -> None:
    assert set(ATTRIBUTES) <= set(HEADERS)
    assert {*ARRIVALS, *ATTRIBUTES, "verdict", "reason", "detail", "duplicate_of"} == set(VERDICTS)
