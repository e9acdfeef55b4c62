"""The style sheet and the script of the pages. They hold no data."""

from __future__ import annotations

from functools import cache

from fastapi import APIRouter, Response

from airlock.stages.pages.rendering import style
from airlock_console.responses import FOLDER, file_response

router = APIRouter()


@router.get("/static/console.css")
def console_css() -> Response:
    """Return the style sheet."""
    return file_response(style(), "text/css; charset=utf-8")


@router.get("/static/console.js")
def console_js() -> Response:
    """Return the script: links that leave the frame, Airflow's theme, dialogs, and calls of Airflow's own API."""
    return file_response(_script(), "text/javascript; charset=utf-8")


@cache
def _script() -> str:
    return (FOLDER / "assets/console.js").read_text(encoding="utf-8")
