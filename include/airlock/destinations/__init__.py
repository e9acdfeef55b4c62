"""Destinations: what takes released contracts, or word of them. One module each, behind one small interface.

No module here knows Airflow: clients and secrets are handed in. A new kind of destination is a section in
``airlock.pipelines.routes``, a module here, and a line in ``airlock_tasks.destinations``.
"""

from __future__ import annotations

from airlock.destinations.message import Destination, DestinationError, Message, aws_error

__all__ = ["Destination", "DestinationError", "Message", "aws_error"]
