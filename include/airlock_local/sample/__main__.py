"""Command line of the sample archive: ``python -m airlock_local.sample FOLDER [--seed N] [--json]``."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from airlock_local.sample import DEFAULT_SEED, SampleFile, write_sample


def table(title: str, counts: Counter[str]) -> list[str]:
    """Return the lines of a table of counts, ordered by name."""
    width = max(map(len, [title, *counts]))
    lines = [f"{title:<{width}}  files"]
    return lines + [f"{name:<{width}}  {count:>5}" for name, count in sorted(counts.items())] + [""]


def summary(files: Sequence[SampleFile]) -> str:
    """Return the number of files by site, modality and trouble, as tables."""
    total = sum(file.size for file in files)
    return "\n".join(
        [
            *table("site", Counter(file.site for file in files)),
            *table("modality", Counter(file.modality or "(no instance)" for file in files)),
            *table("trouble", Counter(file.trouble or "(clean)" for file in files)),
            f"{len(files)} files, {total / 1e6:.1f} MB\n",
        ]
    )


def as_json(files: Sequence[SampleFile]) -> str:
    """Return the files as a JSON list, one object each."""
    rows = [
        {
            "path": file.path,
            "size": file.size,
            "site": file.site,
            "modality": file.modality,
            "trouble": file.trouble,
            "dispositions": sorted(file.dispositions),
            "reasons": sorted(file.reasons),
        }
        for file in files
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the archive and print a summary; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m airlock_local.sample", description=write_sample.__doc__)
    parser.description = "Write a sample archive with seeded troubles below FOLDER."
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="decides every UID and pixel (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print each file and its expected disposition, as JSON")
    options = parser.parse_args(arguments)
    try:
        files = write_sample(options.folder, seed=options.seed)
    except OSError as error:
        parser.error(f"cannot write the sample archive to {options.folder}: {error.strerror}")
    sys.stdout.write(as_json(files) if options.json else summary(files))
    return 0


if __name__ == "__main__":
    sys.exit(main())
