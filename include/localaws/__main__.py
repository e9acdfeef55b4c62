"""Run the emulator: ``python -m localaws --help``."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import uvicorn

from localaws.server import uvicorn_config
from localaws.settings import read_settings

log = logging.getLogger("localaws")


def main() -> None:
    """Serve until stopped."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # pydicom's warnings and log lines quote element values.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module="pydicom")
    for library in ("botocore", "boto3", "urllib3", "s3transfer"):
        logging.getLogger(library).setLevel(logging.WARNING)
    settings = read_settings(sys.argv[1:], os.environ)
    server = uvicorn.Server(uvicorn_config(settings))
    log.info("localaws starts on http://%s:%s", settings.host, settings.port)
    try:
        server.run()
    except SystemExit:
        message = "Port %s cannot be used on %s; choose another with --port or LOCALAWS_PORT"
        log.error(message, settings.port, settings.host)  # noqa: TRY400 - uvicorn has logged the cause
        raise


if __name__ == "__main__":
    main()
