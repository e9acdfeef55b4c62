"""Run the emulator: ``python -m localaws --help``."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import uvicorn

from localaws.server import bind_listener, uvicorn_config
from localaws.settings import read_settings
from localaws.state import StateError

log = logging.getLogger("localaws")


def main() -> None:
    """Serve until stopped."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # pydicom's warnings and log lines quote element values.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module="pydicom")
    for library in ("botocore", "boto3", "urllib3", "s3transfer"):
        logging.getLogger(library).setLevel(logging.WARNING)
    wanted = read_settings(sys.argv[1:], os.environ)
    try:
        settings, listener = bind_listener(wanted)
    except OSError as error:
        message = "Port %s cannot be used on %s (%s); choose another with --port or LOCALAWS_PORT"
        log.error(message, wanted.port, wanted.host, error.strerror)  # noqa: TRY400 - the sentence says it all
        sys.exit(3)
    log.info("localaws starts on http://%s:%s", settings.host, settings.port)
    try:
        config = uvicorn_config(settings)
    except StateError as error:
        log.error("%s", error)  # noqa: TRY400 - the sentence says it all
        sys.exit(4)
    uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    main()
