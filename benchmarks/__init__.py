"""Benchmarks, which print their figures beside the bars and fail only if a part raises an error.

``make bench`` runs all but ``clinical``, which ``make bench-clinical`` runs; docs/performance.md explains the figures.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "plugins"))  # as in Airflow: a part measures the console's pages
