"""The picture of the stages can be read: in a browser no label lies over another, or reaches out of the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser import PATIENCE, open_browser
from tests.markdown import ROOT
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

_DRAWN = "document.readyState === 'complete' && document.querySelector('svg') !== null"
_OVERLAPS = """(() => {
  const picture = document.documentElement.getBoundingClientRect();
  const labels = [...document.querySelectorAll("text")].map(e => [e.textContent, e.getBoundingClientRect()]);
  const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
  const out = labels.filter(([, a]) => a.left < picture.left || a.right > picture.right || a.bottom > picture.bottom);
  const over = labels.flatMap(([words, a], i) =>
    labels.slice(i + 1).filter(([, b]) => meet(a, b)).map(([others]) => [words, others]));
  return {labels: labels.length, overlaps: [...over, ...out.map(([words]) => [words])]};
})()"""


@pytest.mark.slow
@pytest.mark.proof
def test_no_label_of_the_stages_lies_over_another(tmp_path: Path) -> None:
    picture = ROOT / "docs/stages.svg"
    with open_browser(tmp_path, width=1188, height=600) as page:
        page.open(picture.as_uri())
        until("the picture is drawn", lambda: page.evaluate(_DRAWN), PATIENCE)
        found = page.evaluate(_OVERLAPS)
    assert found["labels"] == picture.read_text(encoding="utf-8").count("</text>")
    assert found["overlaps"] == []


def test_the_picture_of_the_stages_names_both_services() -> None:
    text = (ROOT / "docs/stages.svg").read_text(encoding="utf-8")
    assert "HealthImaging" in text
    assert "HealthLake" in text
