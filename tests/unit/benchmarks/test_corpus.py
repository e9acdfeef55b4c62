"""The corpus of the benchmark: the same bytes on every run, each kind in its share, values where pydicom finds them."""

import hashlib
from collections import Counter

from benchmarks.corpus import SHARES, Position, Recipe, enhanced, instance, objects, series, spread_kinds, truth

from airlock.records import ATTRIBUTES

SMALL = ("mr", "csa", "deflated", "japanese", "report")  # kinds


def test_the_same_recipe_makes_the_same_bytes() -> None:
    def digest() -> str:
        made = hashlib.sha256()
        for item in objects(Recipe(mixed=5, enhanced=1, frames=2)):
            made.update(item.body)
        return made.hexdigest()

    assert digest() == digest()


def test_a_hundred_objects_have_every_kind_in_its_share() -> None:
    kinds = spread_kinds()

    assert {kind: kinds.count(kind) for kind in SHARES} == SHARES
    assert sum(SHARES.values()) == len(kinds) == 100


def test_kinds_are_spread() -> None:
    assert len(set(spread_kinds()[:25])) >= len(SHARES) * 2 // 3


def test_a_series_is_a_folder_of_one_kind_and_a_hundred_have_every_kind_in_its_share() -> None:
    members = list(series(100))
    kinds = {member.key.rpartition("/")[0]: member.kind for member in members}

    assert Counter(kinds.values()) == SHARES
    assert all(kinds[member.key.rpartition("/")[0]] == member.kind for member in members)
    assert [member.key for member in members] == sorted(member.key for member in members)
    assert 120 * 100 < len(members) < 210 * 100


def test_every_kind_has_its_wanted_values() -> None:
    for number, kind in enumerate(SMALL):
        values = truth(instance(kind, number))
        assert values["PatientID"] == f"P{Position.of(number).study:07}"
        assert set(values) <= set(ATTRIBUTES)
        assert len(values) >= len(ATTRIBUTES) - 2, kind


def test_the_request_is_that_of_the_sequence() -> None:
    assert truth(instance("report", 0))["RequestedProcedureID"] == "RP000000"


def test_functional_groups_come_with_and_without_lengths() -> None:
    delimiter = b"\xfe\xff\xdd\xe0"  # SequenceDelimitationItem, PS3.5 section 7.5

    assert [delimiter in enhanced(number, frames=1) for number in (0, 1)] == [False, True]
