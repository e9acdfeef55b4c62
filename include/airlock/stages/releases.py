"""The payloads of released contracts: one object per revision in the run's folder, which messages point to.

Settling writes the payloads first and then records the releases in its transaction. If it breaks off between the two,
the payloads that no release names are removed when it is done again.
"""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import polars as pl

from airlock.destinations.s3 import contract_name
from airlock.ledger.outbox import MESSAGES
from airlock.records import CONTRACTS
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airlock.pipelines import Pipeline
    from airlock.run import Run

_log = logging.getLogger(__name__)
WRITERS = 16  # contracts written, or read again, at a time
_FOLDER = "contracts"
_NAME = re.compile(r"(?P<subject_key>[^/]+)/revision-(?P<revision>[0-9]+)\.json")
_FOUND = pl.Schema({"subject_key": pl.String, "revision": pl.Int64, "payload_uri": pl.String})
_AT_A_TIME = 1_000


def write_payloads(run: Run[Pipeline], contracts: pl.DataFrame) -> pl.DataFrame:
    """Write each contract to an object of its own; return the messages for `Ledger.record_releases`.

    Parameters
    ----------
    run
        The run that releases the subjects.
    contracts
        `records.CONTRACTS`.
    """

    def write(row: tuple[str, int, str]) -> str:
        subject_key, revision, text = row
        return run.workspace.write_text(f"{_FOLDER}/{contract_name(subject_key, revision)}", text, "application/json")

    with ThreadPoolExecutor(WRITERS) as pool:
        addresses = list(pool.map(write, contracts.select("subject_key", "revision", "contract").iter_rows()))
    keys = contracts.select("subject_key", "revision", "content_digest")
    return keys.with_columns(payload_uri=pl.Series(addresses, dtype=pl.String)).select(MESSAGES.names())


def remove_unreleased_payloads(run: Run[Pipeline]) -> int:
    """Delete the run's payloads that neither a release nor a message names; return their number.

    Call it after the transaction that settles: a run settles in one task at a time, so no other one writes here now.
    What cannot be deleted stays, since nothing points to it; the log has the number.
    """
    removed = 0
    for found in _list_payloads(run):
        pipeline = run.pipeline
        left = run.ledger.unreleased_payloads(pipeline.name, pipeline.datastore_id, found)
        removed += _delete(run, [S3Uri.parse(uri) for uri in left["payload_uri"]])
    return removed


def _delete(run: Run[Pipeline], uris: Sequence[S3Uri]) -> int:
    try:
        run.s3.delete(run.workspace.root.bucket, [uri.key for uri in uris])
    except OSError as error:  # refused, or no answer
        _log.warning(
            "%d contracts that were not released stay in the workspace (%s). Give the role s3:DeleteObject there.",
            len(uris),
            type(error).__name__,
        )
        return 0
    return len(uris)


def _list_payloads(run: Run[Pipeline]) -> Iterator[pl.DataFrame]:
    folder = run.workspace.root.join(_FOLDER, "")
    rows: list[tuple[str, int, str]] = []
    for item in run.s3.list_objects(folder):
        named = _NAME.fullmatch(item.key.removeprefix(folder.key))
        if named is not None:
            rows.append((named["subject_key"], int(named["revision"]), str(S3Uri(folder.bucket, item.key))))
        if len(rows) == _AT_A_TIME:
            yield pl.DataFrame(rows, _FOUND, orient="row")
            rows = []
    if rows:
        yield pl.DataFrame(rows, _FOUND, orient="row")


def adopt_releases(run: Run[Pipeline]) -> None:
    """Record what the run released before its version of Airlock recorded releases; a repeat changes nothing.

    Such a run was settled by an earlier version and not routed before the upgrade. Only contracts whose subject the
    ledger says that the run has released count.
    """
    ledger, pipeline = run.ledger, run.pipeline
    if ledger.has_released(pipeline.name, run.key) or not run.workspace.is_committed(_FOLDER):
        return
    gates = ledger.gates_of(pipeline.datastore_id, run.key).filter("released")
    for contracts in run.workspace.parts(_FOLDER, CONTRACTS):
        released = contracts.filter(pl.col("subject").is_in(gates["subject"].implode()))
        if not released.is_empty():
            messages = write_payloads(run, released)
            ledger.record_releases(pipeline.name, run.key, pipeline.datastore_id, messages)
