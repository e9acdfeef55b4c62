"""Destinations of routes: they get released contracts, or messages about them. Each module implements `Destination`.

No module here imports Airflow: clients and secrets are passed in. A new kind of destination is a section in
``airlock.pipelines.routes``, a module here, and a line in ``airlock_tasks.destinations``.
"""

from __future__ import annotations

from airlock.destinations.message import Destination, DestinationError, Message, aws_error

__all__ = ["Destination", "DestinationError", "Message", "aws_error"]
