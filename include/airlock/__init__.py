"""Airlock's library: the stages as plain Python, without Airflow.

One module per stage (receive, buffer, parse, validate, normalize, stage, ``import_``, audit, route; those that no kind
of pipeline has for itself are in ``stages``, stage is for images only), and what they share:
``records`` (the words and the rows), ``reasons`` (the closed list of reason codes), ``pipelines`` (YAML to typed
settings), ``storage`` (S3, and a run's datasets on it) and ``ledger`` (the database of record).
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"
POLARS = (2, 1)  # the lower bound in pyproject.toml; a deployment may install the library without comparing it


def require_polars() -> None:
    """Refuse a polars with which a run fails in its audit, when the library is imported and not then.

    Raises
    ------
    ImportError
        With the version that is installed and the one to install.
    """
    try:
        found = version("polars")
    except PackageNotFoundError:
        found = "none"
    if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < POLARS:
        lowest = ".".join(map(str, POLARS))
        raise ImportError(
            f"airlock works with polars from {lowest}; polars {found} is installed. With polars 1 the ledger fails "
            f"when it should refuse a wrong disposition. Install 'polars>={lowest}'."
        )


require_polars()
