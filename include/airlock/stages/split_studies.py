"""Split studies: with ``waves.hold_split`` a study waits for the waves of its delivery that may have files of it.

These are the waves with objects in the same folder right below the run's prefix. Until such a wave has validated its
files, the ledger has the study as in flight there: `airlock.ledger.split_studies`. A wave that never begins is awaited
no longer when other runs have read all of its objects, or when a person gives it up.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import polars as pl

from airlock.ledger.runs import parse_wave
from airlock.ledger.split_studies import SPLIT
from airlock.run import run_key
from airlock.stages.sites import first_folder
from airlock.stages.waves import find_waves, number_of, read_wave
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from airlock.pipelines import Pipeline
    from airlock.run import Run

MOST_LOOKED_UP = 1_000  # objects of a wave that S3 is asked about; of a wave that lacks more only a person decides


def find_sharing(run: Run[Pipeline]) -> dict[str, dict[str, str]]:
    """Return the runs of the waves that may have files of the same studies as a run: ids with keys, by folder."""
    waves, name = find_waves(run), run.pipeline.name
    if waves is None:
        return {}
    return {
        folder: {run_id: run_key(name, run_id) for run_id in map(waves.run_id, others)}
        for folder, others in waves.find_sharing(number_of(run)).items()
    }


def list_split(run: Run[Pipeline], parts: Iterable[pl.DataFrame], folders: Collection[str]) -> Iterator[pl.DataFrame]:
    """Yield the studies of files below these folders, as `ledger.split_studies.SPLIT`.

    Parameters
    ----------
    run
        The run.
    parts
        Its files, with ``key`` and ``StudyInstanceUID``.
    folders
        Folders right below the run's prefix; "" stands for the files beside them.
    """
    study = pl.col("StudyInstanceUID").alias("study_instance_uid")
    for part in parts:
        rows = part.select(study, first_folder(run.prefix)).filter(pl.col("folder").is_in(list(folders)))
        yield rows.filter(pl.col("study_instance_uid") != "").unique(maintain_order=True).select(SPLIT.names())


def give_up_taken(run: Run[Pipeline]) -> int:
    """Let no study wait for waves of other deliveries whose objects other runs have read; return how many waited."""
    name, own = run.pipeline.name, parse_wave(run.run_id)[0]
    expected: dict[str, list[str]] = {}
    for run_id in run.ledger.expected_waves(name):
        expected.setdefault(parse_wave(run_id)[0], []).append(run_key(name, run_id))
    taken = [keys for lead, keys in expected.items() if lead != own and _is_taken(run, lead)]
    return sum(run.ledger.give_up_waves(name, keys) for keys in taken)


def _is_taken(run: Run[Pipeline], lead: str) -> bool:
    """Return whether other runs have read what the waves of a delivery have not claimed; waves claim in turn."""
    listed = replace(run, run_id=lead, window=None, redrive=None, wave=None)
    waves = find_waves(listed)
    if waves is None:  # without the frozen listing no wave can begin
        return True
    for number in range(len(waves.waves), 1, -1):
        known = run.ledger.run(run_key(run.pipeline.name, waves.run_id(number)))
        if known is not None and known.listed_until is not None:
            return True
        if _has_left(listed, number):
            return False
    return True


def _has_left(listed: Run[Pipeline], number: int) -> bool:
    """Return whether an object of a wave is there as it was listed, and no run has a verdict on it."""
    looked_up = 0
    for rows in read_wave(listed, number):
        lacking = listed.ledger.find_unvalidated(listed.pipeline.name, rows)
        for bucket, key, etag in lacking.select("bucket", "key", "etag").iter_rows():
            found = listed.s3.find(S3Uri(bucket, key))
            looked_up += 1
            if (found is not None and found["etag"] == etag) or looked_up > MOST_LOOKED_UP:
                return True
    return False
