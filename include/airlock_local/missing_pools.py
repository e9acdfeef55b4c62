"""The pools that pipelines name and Airflow lacks: ``python -m airlock_local.missing_pools`` prints them.

The output is a file for ``airflow pools import``, which would set the slots of pools that exist. Those are an
operator's: they are left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airlock.pipelines import load_pipelines
from airlock_local.progress import say
from airlock_local.stores import pools_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from airlock_local.stores import Pool


def describe_missing(pools: Iterable[Pool], existing: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the pools that do not exist, by name, as ``airflow pools import`` reads them."""
    return {
        pool.name: {"slots": pool.slots, "description": pool.description, "include_deferred": True}
        for pool in pools
        if pool.name not in existing
    }


def main() -> None:
    """Print the pools of a folder's pipelines that an export of Airflow's pools does not have."""
    parser = argparse.ArgumentParser(prog="airlock_local.missing_pools", description=main.__doc__)
    parser.add_argument("--pipelines", required=True, type=Path, help="folder of the pipeline files")
    parser.add_argument("--existing", required=True, type=Path, help="file that airflow pools export has written")
    parser.add_argument("--parallelism", required=True, type=int, help="tasks at the same time, on all workers")
    given = parser.parse_args()
    pipelines, _ = load_pipelines(given.pipelines)  # wrong files are reported in the UI
    existing = json.loads(given.existing.read_text(encoding="utf-8"))
    say(json.dumps(describe_missing(pools_of(pipelines.values(), given.parallelism), existing), indent=2))


if __name__ == "__main__":
    main()
