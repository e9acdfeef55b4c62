"""The arrivals that were taken under the same keys before, for files whose own header names no study."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
from sqlalchemy import select

from airlock.ledger.arrival_states import arrival_states as states
from airlock.ledger.database import Store
from airlock.ledger.frames import fetch, stage_values
from airlock.records import TIMESTAMP, schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airlock.reasons import Reason

_FOUND = schema(
    dict.fromkeys(("key", "StudyInstanceUID", "reason", "run_key"), pl.String),
    dict.fromkeys(("last_modified", "claimed_at"), TIMESTAMP),
    dict.fromkeys(("pipeline", "bucket"), pl.String),
)
PREDECESSORS = pl.Schema(
    {
        "key": pl.String,
        "StudyInstanceUID": pl.String,  # of the latest arrival of another run that has a study, else null
        "own": pl.String,  # the study that an earlier audit of the calling run has found for the file
        "tries": pl.Int64,  # the earlier arrivals under the key that have one of the given reasons
    }
)


class Predecessors(Store):
    """The ledger's methods about earlier arrivals under the same key."""

    def find_predecessors(
        self, pipeline: str, bucket: str, keys: pl.Series, own_run: str, counted: Sequence[Reason]
    ) -> pl.DataFrame:
        """Return what is known of the arrivals that a pipeline has taken under these keys.

        Parameters
        ----------
        pipeline, bucket, keys
            The pipeline, and where its objects lie.
        own_run
            The calling run.
        counted
            The reasons of the arrivals of other runs to count as ``tries``.

        Returns
        -------
        polars.DataFrame
            `PREDECESSORS`, one row per key that has an arrival.
        """
        with self._reading() as connection:
            rows = stage_values(connection, keys, "key")
            uid = states.c.study_instance_uid
            more = ("reason", "run_key", "last_modified", "claimed_at", "pipeline", "bucket")
            columns = (states.c.key, uid, *(states.c[name] for name in more))
            found = fetch(connection, select(*columns).join(rows, rows.c.key == states.c.key), _FOUND)
        reasons = [str(reason) for reason in counted]
        known = pl.when(pl.col("StudyInstanceUID") != "").then("StudyInstanceUID")
        own = pl.col("run_key") == own_run
        study = pl.col("StudyInstanceUID")
        # PostgreSQL takes a pipeline without statistics for one row, and would read all of it, and its words, again
        # and again: its condition is not in the query.
        return (
            found.filter(pipeline=pipeline, bucket=bucket)
            .with_columns(known)
            .sort("last_modified", "claimed_at")
            .group_by("key", maintain_order=True)
            .agg(
                study.filter(~own).drop_nulls().last(),
                own=study.filter(own).drop_nulls().last(),
                tries=(pl.col("reason").is_in(reasons) & ~own).sum().cast(pl.Int64),
            )
            .cast(PREDECESSORS)
        )
