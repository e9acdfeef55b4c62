"""Charts are well-formed SVG, to scale, with a title for each bar; a hostile name stays text."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from airlock.stages.pages.charts import Part, Series, fan, line, meter, stack, tag

HOSTILE = "\"><script>alert(1)</script>&'"
SVG = "{http://www.w3.org/2000/svg}"


def parse(chart: str) -> ET.Element:
    return ET.fromstring(chart)


def bars(chart: str) -> list[ET.Element]:
    return [one for one in parse(chart).iter(f"{SVG}rect") if one.get("class") != "track"]


def test_a_meter_s_parts_fill_its_scale_side_by_side() -> None:
    drawn = bars(meter([Part("done", 3, "released"), Part("left", 1, "left")], 4, width=400))
    assert [(one.get("x"), one.get("width"), one.get("class")) for one in drawn] == [
        ("0", "300", "released"),
        ("300", "100", "left"),
    ]
    assert [one.findtext(f"{SVG}title") for one in drawn] == ["done: 3", "left: 1"]


def test_a_waterfall_s_bar_begins_where_the_one_before_ended() -> None:
    (drawn,) = bars(meter([Part("held", 1, "held")], 4, start=3, width=400))
    assert (drawn.get("x"), drawn.get("width")) == ("300", "100")


def test_a_small_part_is_still_seen_and_none_is_not() -> None:
    drawn = bars(meter([Part("few", 1, "c1"), Part("none", 0, "c2")], 1_000_000, width=100))
    assert [one.get("width") for one in drawn] == ["1", "0"]


def test_a_meter_of_nothing_is_empty() -> None:
    assert all(one.get("width") == "0" for one in bars(meter([Part("none", 0, "c0")], 0)))


def test_stacked_bars_stand_on_each_other() -> None:
    chart = stack(["11-01", "11-02"], [Series("a", [50, 0], "c0"), Series("b", [50, 25], "c1")], height=132)
    drawn = bars(chart)
    assert [one.findtext(f"{SVG}title") for one in drawn] == ["11-01: a: 50", "11-01: b: 50", "11-02: b: 25"]
    first, second, third = (float(one.get("y") or 0) for one in drawn)
    heights = [float(one.get("height") or 0) for one in drawn]
    assert second == pytest.approx(first - heights[1], abs=0.2)
    assert heights == [50, 50, 25]  # of 100 pixels for 100
    assert third > second


def test_a_line_has_a_gap_where_there_is_no_value() -> None:
    chart = parse(line(["a", "b", "c", "d"], [1.0, None, 3.0, 4.0], 5.0, title="rate", unit=" %"))
    strokes = [one for one in chart.iter(f"{SVG}line") if "stroke" in (one.get("class") or "")]
    assert len(strokes) == 1
    assert [one.findtext(f"{SVG}title") for one in chart.iter(f"{SVG}circle")] == ["a: 1 %", "c: 3 %", "d: 4 %"]


def test_a_burn_up_shows_the_range_only_if_there_is_one() -> None:
    with_range = fan([0, 1, 2], [0, 5, 9], 20, (4.0, 6.0), title="objects")
    assert len(list(parse(with_range).iter(f"{SVG}polygon"))) == 1
    assert not list(parse(fan([0], [0], 0, None, title="objects")).iter(f"{SVG}polygon"))


@pytest.mark.parametrize(
    "chart",
    [
        meter([Part(HOSTILE, 1, HOSTILE)], 2),
        stack([HOSTILE], [Series(HOSTILE, [1], HOSTILE)]),
        line([HOSTILE], [1.0], 1.0, title=HOSTILE, unit=HOSTILE, colour_class=HOSTILE),
        fan([0, 1], [0, 1], 2, (2, 3), title=HOSTILE),
        tag("text", HOSTILE, class_=HOSTILE),
    ],
    ids=range(5),
)
def test_a_hostile_name_stays_text(chart: str) -> None:
    assert "<script" not in chart
    assert not list(parse(chart).iter(f"{SVG}script"))


def test_no_days_make_an_empty_chart() -> None:
    assert bars(stack([], [])) == []
