"""Airlock's library: the stages as plain Python, without Airflow.

One module per stage (receive, buffer, parse, validate, normalize, stage, ``import_``, audit, route; those that no kind
of pipeline has for itself are in ``stages``, stage is for images only), and what they share:
``records`` (the words and the rows), ``reasons`` (the closed list of reason codes), ``pipelines`` (YAML to typed
settings), ``storage`` (S3, and a run's datasets on it) and ``ledger`` (the database of record).
"""

from __future__ import annotations

__version__ = "0.1.0"
