"""What a request is answered about an instance, and when."""

from __future__ import annotations

import pytest

from airlock_edge.commitment.verdict import Content, Verdict, failure_of, is_over, judge

SPOOLED, DURABLE = Content(True, False, None), Content(True, True, None)
IMPORTED, RELEASED, FAILED = (Content(True, True, told) for told in ("imported", "released", "failed"))
OF_ANOTHER = Content(False, True, "released")


@pytest.mark.parametrize(
    ("after", "content", "verdict"),
    [
        ("durable", SPOOLED, "undecided"),
        ("durable", DURABLE, "committed"),
        ("durable", FAILED, "committed"),
        ("imported", DURABLE, "undecided"),
        ("imported", IMPORTED, "committed"),
        ("imported", RELEASED, "committed"),
        ("imported", FAILED, "failed"),
        ("released", DURABLE, "undecided"),
        ("released", IMPORTED, "undecided"),
        ("released", RELEASED, "committed"),
        ("released", FAILED, "failed"),
    ],
)
def test_an_instance_is_committed_when_its_content_is_as_safe_as_the_peer_needs(after, content, verdict):
    assert judge(after, [content], has_other_class=False) == verdict


def test_an_instance_that_never_came_is_unknown_or_of_another_class():
    assert judge("imported", [], has_other_class=False) is Verdict.UNKNOWN
    assert judge("imported", [], has_other_class=True) is Verdict.CONFLICT


def test_the_content_that_the_peer_has_sent_counts_and_not_that_of_another():
    assert judge("imported", [OF_ANOTHER, FAILED], has_other_class=False) is Verdict.FAILED
    assert judge("imported", [OF_ANOTHER, RELEASED], has_other_class=False) is Verdict.COMMITTED


def test_of_what_only_others_have_sent_every_content_must_be_safe():
    worse = Content(False, True, "failed")
    assert judge("imported", [OF_ANOTHER], has_other_class=False) is Verdict.COMMITTED
    assert judge("imported", [OF_ANOTHER, worse], has_other_class=False) is Verdict.FAILED


WAITS = {"wait": 100, "unknown_wait": 10}


def test_a_request_is_answered_when_all_is_decided():
    assert is_over([Verdict.COMMITTED, Verdict.FAILED], 0, **WAITS)
    assert not is_over([Verdict.COMMITTED, Verdict.UNDECIDED], 99, **WAITS)


def test_a_request_waits_a_little_for_instances_that_never_came():
    for unknown in (Verdict.UNKNOWN, Verdict.CONFLICT):
        assert not is_over([Verdict.COMMITTED, unknown], 9, **WAITS)
        assert is_over([Verdict.COMMITTED, unknown], 10, **WAITS)
        assert not is_over([Verdict.UNDECIDED, unknown], 10, **WAITS)


def test_a_request_is_answered_at_the_latest_after_its_wait():
    assert is_over([Verdict.UNDECIDED, Verdict.UNKNOWN], 100, **WAITS)


def test_failures_have_the_reasons_of_the_standard():
    reasons = {one: failure_of(one) for one in Verdict}
    assert reasons == {"committed": None, "failed": 0x110, "undecided": 0x110, "unknown": 0x112, "conflict": 0x119}
