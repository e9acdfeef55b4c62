"""Transactions that are sent with ``Prefer: respond-async``: queued, carried out later, asked for by polling."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from localaws.errors import log_defect
from localaws.fhir import Issue, operation_outcome
from localaws.healthlake.documents import read_document, write_document
from localaws.healthlake.exchange import LEVEL_HEADER, Datastore, FhirError, Reply, Request, level_of

if TYPE_CHECKING:
    import sqlite3

    from localaws.healthlake.bundles import Bundles, Limits
    from localaws.schedule import Schedule
    from localaws.state import State

KIND = "fhir-transaction"
FAILED = FhirError(500, "exception", "The transaction failed.")


class AsyncBundles:
    """Queues transactions; the queue outlives a restart.

    Parameters
    ----------
    state, schedule
        Those of the emulator.
    bundles : Bundles
        Carries them out.
    limits : Limits
        How many may wait.
    seconds : float
        How long a transaction is SUBMITTED, and then again IN_PROGRESS.
    """

    def __init__(self, state: State, schedule: Schedule, bundles: Bundles, limits: Limits, seconds: float) -> None:
        self._state = state
        self._schedule = schedule
        self._bundles = bundles
        self._limits = limits
        self._seconds = seconds
        schedule.on(KIND, self.step)

    def submit(self, request: Request) -> Reply:
        """Queue a transaction; answer 202 and where to ask for it.

        Raises
        ------
        FhirError
            It is refused before it is queued; 429: too many wait.
        """
        self._bundles.check(request)
        transaction_id = str(uuid.uuid4())
        with self._state.write() as connection:
            self._check_pending(connection, request.datastore.datastore_id)
            connection.execute(
                "INSERT INTO fhir_transaction VALUES (?, ?, ?, ?, ?, 'SUBMITTED', NULL, NULL)",
                (
                    transaction_id,
                    request.datastore.datastore_id,
                    level_of(request.headers),
                    request.datastore.base,
                    write_document(request.body),
                ),
            )
            self._schedule.add(connection, KIND, transaction_id, self._seconds)
        self._schedule.wake()
        address = f"{request.datastore.base}/Transaction/{transaction_id}"
        note = Issue("information", "informational", "Submitted Asynchronous Bundle Transaction", (address,))
        return Reply(202, operation_outcome([note]), {"content-location": address})

    def _check_pending(self, connection: sqlite3.Connection, datastore_id: str) -> None:
        (pending,) = connection.execute(
            "SELECT count(*) FROM fhir_transaction WHERE datastore_id = ? AND answer_status IS NULL", (datastore_id,)
        ).fetchone()
        if pending >= self._limits.pending:
            raise FhirError(
                429, "throttled", f"{pending} transactions of this data store are waiting; send this one later."
            )

    def poll(self, connection: sqlite3.Connection, request: Request, transaction_id: str) -> Reply:
        """Answer the status of a transaction, or its result."""
        row = connection.execute(
            "SELECT * FROM fhir_transaction WHERE id = ? AND datastore_id = ?",
            (transaction_id, request.datastore.datastore_id),
        ).fetchone()
        if row is None:
            raise FhirError(404, "not-found", "The transaction does not exist.")
        if row["answer_status"] is not None:
            return Reply(row["answer_status"], read_document(row["answer"]))
        outcome = operation_outcome([Issue("information", "informational", row["status"])])
        return Reply(202, {**outcome, "id": transaction_id})

    def step(self, transaction_id: str) -> float | None:
        """Go one step further: into progress, then to the end."""
        with self._state.write() as connection:
            row = connection.execute("SELECT * FROM fhir_transaction WHERE id = ?", (transaction_id,)).fetchone()
            if row["status"] == "SUBMITTED":
                connection.execute("UPDATE fhir_transaction SET status = 'IN_PROGRESS' WHERE id = ?", (transaction_id,))
                return self._seconds
            if row["answer_status"] is None:
                reply = self._carry_out(connection, row)
                connection.execute(
                    "UPDATE fhir_transaction SET status = 'ENDED', answer_status = ?, answer = ? WHERE id = ?",
                    (reply.status, write_document(reply.body), transaction_id),
                )
        return None

    def _carry_out(self, connection: sqlite3.Connection, row: sqlite3.Row) -> Reply:
        body: dict[str, Any] = read_document(row["bundle"])
        datastore = Datastore(row["datastore_id"], row["base"])
        request = Request(datastore, "POST", "", headers={LEVEL_HEADER: row["level"]}, body=body)
        connection.execute("SAVEPOINT whole")
        try:
            reply = self._bundles.transact(connection, request)
        except FhirError as error:
            connection.execute("ROLLBACK TO whole")
            reply = error.reply
        except Exception as error:  # noqa: BLE001 - a transaction that breaks has failed; it must not be tried for ever
            log_defect(f"transaction {row['id']}", error)
            connection.execute("ROLLBACK TO whole")
            reply = FAILED.reply
        connection.execute("RELEASE whole")
        return reply
