"""Run the emulator: ``python -m localaws --help``."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import uvicorn

from localaws.server import uvicorn_config
from localaws.settings import read_settings


def main() -> None:
    """Serve until stopped."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # pydicom's warnings and log lines quote element values.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module="pydicom")
    for library in ("botocore", "boto3", "urllib3", "s3transfer"):
        logging.getLogger(library).setLevel(logging.WARNING)
    settings = read_settings(sys.argv[1:], os.environ)
    logging.getLogger(__name__).info("localaws listens on http://%s:%s", settings.host, settings.port)
    uvicorn.Server(uvicorn_config(settings)).run()


if __name__ == "__main__":
    main()
