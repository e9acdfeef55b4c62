"""The contest: who runs when, and whose turn is compared with whose."""

import pytest
from benchmarks.contestants import CONTESTANTS, RangedFile
from benchmarks.headers import FIGURES, _Pass, ratios, schedule


def test_airlock_and_the_floor_run_beside_every_other_contestant() -> None:
    order = schedule(2)

    for place, name in enumerate(order):
        if name in {"boto3_full", "boto3_ranged", "s3fs"}:
            assert {"airlock", "floor"} <= set(order[place - 3 : place])
    assert set(order) == set(CONTESTANTS)
    assert order.count("s3fs") == 2


def test_a_ratio_is_taken_with_the_nearest_turn_of_airlock() -> None:
    def turn(name, figure):
        return _Pass(name, dict.fromkeys(FIGURES, figure), {}, 0)

    passes = [turn("airlock", 10), turn("s3fs", 5), turn("floor", 1), turn("floor", 1), turn("airlock", 1)]

    assert ratios("s3fs", passes)["cpu_ms_per_object"] == pytest.approx(0.5)


def test_a_ranged_file_gets_what_is_read_and_no_byte_twice() -> None:
    body, got = bytes(range(250)) * 1000, []

    def get(start, end):
        got.append((start, end))
        return body[start:end]

    file = RangedFile(get, len(body))
    read = [file.read(10), file.read(20_000)]
    file.seek(-5, 2)

    assert read == [body[:10], body[10:20_010]]
    assert (file.read(), file.tell()) == (body[-5:], len(body))
    assert got == [(0, 16_384), (16_384, 81_920), (249_995, 250_000)]
