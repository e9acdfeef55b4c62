"""Hooks, operators, sensors and triggers for AWS HealthImaging and HealthLake, in the shape of the amazon provider.

botocore and urllib3 log requests and answers at DEBUG, and urllib3 warns of a bad header with the request's address.
Both may identify a patient, so this package keeps their loggers above those levels.
"""

from __future__ import annotations

import logging

from healthaws.versions import require_versions

require_versions()

for _name, _level in {"botocore": logging.INFO, "aiobotocore": logging.INFO, "urllib3": logging.ERROR}.items():
    logging.getLogger(_name).setLevel(_level)
