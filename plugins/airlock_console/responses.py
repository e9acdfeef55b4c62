"""The answers of the console: pages from templates, with their headers."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from fastapi import HTTPException, Request
from fastapi.responses import HTMLResponse, Response

from airlock.stages.pages.rendering import environment

if TYPE_CHECKING:
    from jinja2 import Environment

    from airlock_console.rights import Reader

FOLDER = Path(__file__).parent
# No inline script and no inline style: a key or tag that reaches a page unescaped still runs nothing.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
MOST_BODY = 64 * 1024  # bytes of a form
PAGES = (
    ("", "Tonight"),
    ("triage", "Triage"),
    ("migration", "Migration"),
    ("trends", "Trends"),
    ("destinations", "Destinations"),
    ("find", "Find"),
)


@cache
def templates() -> Environment:
    """Return the templates of the console."""
    return environment(FOLDER / "templates")


def base_of(request: Request) -> str:
    """Return the address of the console on its server, without a slash at its end."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def page(
    request: Request, template: str, current: str, me: Reader | None, *, status: int = 200, **values: Any
) -> HTMLResponse:
    """Return a page; a browser that has the same one gets only the word that it is the same.

    Parameters
    ----------
    request
        What is answered.
    template, current
        The template, and the entry of the navigation that it belongs to.
    me
        The person at the page.
    status
        Of the answer.
    values
        For the template.
    """
    base = base_of(request)
    shown = {"base": base, "airflow": base.removesuffix("/airlock"), "pages": PAGES, "current": current, "me": me}
    body = templates().get_template(template).render(**shown, **values).encode()
    if request.method != "GET" or status != 200:
        return HTMLResponse(body, status, headers={"Cache-Control": "no-store"})
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Cookie, Authorization"}
    if request.headers.get("if-none-match") == tag:
        return HTMLResponse(None, 304, headers=headers)
    return HTMLResponse(body, headers=headers)


async def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a form, of each the first value.

    Raises
    ------
    HTTPException
        If the form is too large or is not one.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY:
            raise HTTPException(413, "The form is too large. Shorten what you have written.")
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise HTTPException(422, "The form cannot be read. Open the page again.") from None
    return {name: values[0] for name, values in fields.items()}


def file_response(content: str | bytes, media_type: str) -> Response:
    """Return a file of the console itself, which browsers keep for an hour."""
    return Response(content, media_type=media_type, headers={"Cache-Control": "private, max-age=3600"})
