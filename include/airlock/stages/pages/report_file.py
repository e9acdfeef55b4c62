"""audit/report.html: the page of a run as one file, without keys, UIDs, file names and people's texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from airlock.stages.pages.rendering import own_environment, style
from airlock.stages.pages.run_view import view_run

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "report.html"


def make_page(report: Mapping[str, Any]) -> str:
    """Return the page of a run from its report; it loads nothing and runs no script."""
    template = own_environment().get_template("report.html")
    return template.render(run=view_run(report), style=Markup(style()))  # noqa: S704  # our own file
