"""The S3 of the Compose proof, run in its container: TLS, and buckets whose policies refuse what is under no KMS key.

moto keeps bucket policies and evaluates none. This answers as the usual two do (Amazon S3 User Guide, "Using
server-side encryption with AWS KMS keys"): a strict bucket refuses a write that does not name the key. Every other
bucket refuses one that names another encryption, and its default encrypts what names none.
"""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple
from werkzeug.wrappers import Response

from airlock_local.s3_rules import apply_s3_rules
from airlock_local.s3_server import refuse_other_origins

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_REFUSED = (
    "<Error><Code>AccessDenied</Code><Message>A bucket policy denies a write without the KMS key.</Message></Error>"
)
_ALGORITHM = "HTTP_X_AMZ_SERVER_SIDE_ENCRYPTION"
_KEY = "HTTP_X_AMZ_SERVER_SIDE_ENCRYPTION_AWS_KMS_KEY_ID"


def begins_object(environ: WSGIEnvironment) -> bool:
    """Return whether a request is PutObject, CopyObject or CreateMultipartUpload: those that say how to encrypt."""
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    has_key = "/" in environ["PATH_INFO"].lstrip("/").rstrip("/")
    put = environ["REQUEST_METHOD"] == "PUT" and not query.keys() - {"x-id"}
    return has_key and (put or (environ["REQUEST_METHOD"] == "POST" and "uploads" in query))


def is_denied(environ: WSGIEnvironment, key: str, strict: Collection[str]) -> bool:
    """Return whether the bucket's policy denies a request."""
    if not begins_object(environ):
        return False
    named = (environ.get(_ALGORITHM), environ.get(_KEY))
    bucket = environ["PATH_INFO"].lstrip("/").split("/", 1)[0]
    return named != ("aws:kms", key) and (bucket in strict or named != (None, None))


def refuse_unencrypted(app: WSGIApplication, key: str, strict: Collection[str]) -> WSGIApplication:
    """Return an application that refuses what the buckets' policies deny."""

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if is_denied(environ, key, strict):
            return Response(_REFUSED, 403, mimetype="application/xml")(environ, start_response)
        return app(environ, start_response)

    return guarded


class QuietHandler(WSGIRequestHandler):
    """Logs no request: keys of objects may name patients."""

    protocol_version = "HTTP/1.1"

    def log_request(self, *_: object) -> None:
        """Log nothing."""


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4566)
    parser.add_argument("--allowed-host", action="append", default=[])
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--private-key", required=True)
    parser.add_argument("--kms-key", required=True)
    parser.add_argument("--strict", default="", help="the buckets that refuse a write without the key, with commas")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    apply_s3_rules()
    app = refuse_other_origins(DomainDispatcherApplication(create_backend_app), given.allowed_host)
    app = refuse_unencrypted(app, given.kms_key, given.strict.split(","))
    tls = (given.certificate, given.private_key)
    run_simple(given.host, given.port, app, threaded=True, request_handler=QuietHandler, ssl_context=tls)


if __name__ == "__main__":
    main()
