"""The local S3, SQS, EventBridge, STS and IAM: moto's server for programs of this machine, without its access log.

Every line of that log names an object's key, and keys of an archive hold names of patients. Moto itself admits
every web page: it answers each Origin with the CORS headers that it asks for.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple
from werkzeug.wrappers import Response

from airlock_local.s3_rules import apply_s3_rules
from localaws.callers import why_refused

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


def refuse_other_origins(app: WSGIApplication, allowed: Collection[str]) -> WSGIApplication:
    """Return an application that refuses the pages of other origins, and sends no CORS headers."""

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        reason = why_refused(lambda name: environ.get(f"HTTP_{name.upper().replace('-', '_')}"), allowed)
        if reason is not None:
            return Response(_refusal(reason), 403, mimetype="application/xml")(environ, start_response)

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            kept = [item for item in headers if not item[0].lower().startswith("access-control-")]
            return start_response(status, kept, *rest)

        return app(environ, start)

    return guarded


def _refusal(reason: str) -> str:
    return f"<Error><Code>AccessDenied</Code><Message>{escape(reason)}</Message></Error>"


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(prog="airlock_local.s3_server", description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=4566, help="TCP port")
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        type=str.lower,
        help="name that the Host header may have besides loopback's; repeatable",
    )
    given = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the first process of a container ignores it otherwise
    apply_s3_rules()
    app = refuse_other_origins(DomainDispatcherApplication(create_backend_app), given.allowed_host)
    run_simple(given.host, given.port, app, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main()
