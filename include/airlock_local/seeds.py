"""The emulator's flags for pipeline files: ``python -m airlock_local.seeds --pipelines FOLDER`` prints them."""

from __future__ import annotations

import argparse
from pathlib import Path

from airlock.pipelines import load_pipelines
from airlock_local.buckets import is_local
from airlock_local.progress import say
from airlock_local.stores import seeds_of


def main() -> None:
    """Print the flags that make the data stores and profiles of a folder's local pipelines, one in a line."""
    parser = argparse.ArgumentParser(prog="airlock_local.seeds", description=main.__doc__)
    parser.add_argument("--pipelines", required=True, type=Path, help="folder of the pipeline files")
    pipelines, _ = load_pipelines(parser.parse_args().pipelines)  # wrong files are reported in the UI
    say("\n".join(seeds_of(pipeline for pipeline in pipelines.values() if is_local(pipeline))))


if __name__ == "__main__":
    main()
