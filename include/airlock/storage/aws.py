"""Error codes of AWS's client libraries, without the requests that their messages quote.

The messages hold the URL of the request or the body of the answer, and so an object's key, which may be a patient's
name. So do the DEBUG logs, and urllib3's warning about a header that it cannot parse.
"""

from __future__ import annotations

import logging
from typing import Final

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

# urllib3's own errors are raised by a body that is read after the call.
AWS_ERRORS = (ClientError, BotoCoreError, Boto3Error, ResponseParserError, HTTPError)

# botocore's retries of a command that reads a whole data store: after refusals it lowers the rate, and raises it again.
PATIENCE: Final = {"mode": "adaptive", "total_max_attempts": 12}

for _name in ("botocore", "boto3", "s3transfer", "aiobotocore"):
    logging.getLogger(_name).setLevel(logging.INFO)
logging.getLogger("urllib3").setLevel(logging.ERROR)


def error_code(error: Exception) -> str:
    """Return AWS's code of an error response, or the class of any other error."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else type(error).__name__
