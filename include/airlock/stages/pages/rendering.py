"""The templates of the pages: escaped by default, with the functions that write numbers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined, select_autoescape

from airlock.stages.pages import charts, numbers

FOLDER = Path(__file__).parent


def environment(*folders: Path) -> Environment:
    """Return the environment of templates in these folders and in this package; a missing value is an error."""
    made = Environment(
        loader=ChoiceLoader([FileSystemLoader(folder) for folder in (*folders, FOLDER)]),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    written: dict[str, Any] = {
        name: getattr(numbers, name) for name in ("count", "share", "size", "age", "moment", "day")
    }
    made.filters |= written
    made.globals |= {"plural": numbers.plural, "meter": charts.meter, "Part": charts.Part, "age": numbers.age}
    return made


@cache
def style() -> str:
    """Return the style sheet of all pages."""
    return (FOLDER / "console.css").read_text(encoding="utf-8")


@cache
def own_environment() -> Environment:
    """Return the environment of this package's templates."""
    return environment()
