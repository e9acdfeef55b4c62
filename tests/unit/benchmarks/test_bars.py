"""A bar is met, missed or not measured, and says which."""

import pytest
from benchmarks.bars import Bar, bars


@pytest.mark.parametrize(
    ("value", "at_least", "met", "word"),
    [(5, False, True, "met"), (5.1, False, False, "MISSED"), (5, True, True, "met"), (4.9, True, False, "MISSED")],
)
def test_a_value_is_held_to_its_limit(value, at_least, met, word) -> None:
    bar = Bar("requests", value, 5, at_least=at_least)

    assert bar.met is met
    assert str(bar).endswith(word)


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    everything = bars({})

    assert everything
    assert {bar.met for bar in everything} == {None}
    assert str(everything[0]).endswith("not measured")


def test_five_million_are_held_to_the_time_of_one() -> None:
    sizes = [{"arrivals": 1_000_000, "seconds": 100, "peak_mib": 900}, {"arrivals": 5_000_000, "seconds": 610}]

    found = {bar.figure: bar for bar in bars({"chain": {"sizes": sizes}})}

    assert found["5 million arrivals over 1 million, time"].value == pytest.approx(6.1)
    assert found["5 million arrivals over 1 million, time"].met is False
    assert found["validate + normalize + audit of 1 million arrivals, s"].met is True
