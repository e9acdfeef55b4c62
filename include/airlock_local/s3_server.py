"""The local S3, SQS, EventBridge, STS and IAM: moto's server without its access log.

Every line of that log names an object's key, and keys of an archive hold names of patients.
"""

from __future__ import annotations

import logging

from moto.server import main

if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    main()
