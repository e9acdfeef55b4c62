"""The database of record, on SQLite or PostgreSQL.

Callers use the class ``Ledger``. Its methods are defined in one module per concern: ``runs``, ``arrivals``,
``instances``, ``studies``, ``resources``, ``jobs``, ``gates``, ``contracts``, ``outbox``, ``releases``, ``stow``,
``redrives``, ``release``, ``lookup``, ``predecessors``, ``folders``, ``words``, ``origin_words``, ``comparisons``,
``data_stores``, ``sweeps``, ``split_studies``, ``sign_offs``, ``identities``, ``reviews``, ``parked``. ``tables``,
``decision_tables`` and ``comparison_tables`` define the schema; ``python -m airlock.ledger upgrade`` brings a database
to it by the steps in ``migrations``.
"""

from __future__ import annotations

from airlock.ledger.arrivals import Claim
from airlock.ledger.brakes import BrakeAnswer
from airlock.ledger.columns import InstanceState, MessageState, Resolution, ResolutionState, StoreOrigin, StowState
from airlock.ledger.data_stores import FOREIGN, Adoption, KnownStore
from airlock.ledger.errors import LedgerError, LedgerSchemaError, LedgerUnreachableError
from airlock.ledger.identities import IdentityAnswer
from airlock.ledger.jobs import Job
from airlock.ledger.ledger import Ledger
from airlock.ledger.lookup import Found
from airlock.ledger.outbox import OutboxMessage
from airlock.ledger.resolutions import ResolutionRecord
from airlock.ledger.reviews import ReviewAnswer, ReviewRecord, ReviewTakenError
from airlock.ledger.runs import RunRecord
from airlock.ledger.schema import upgrade
from airlock.ledger.sign_offs import SignOff

__all__ = [
    "FOREIGN",
    "Adoption",
    "BrakeAnswer",
    "Claim",
    "Found",
    "IdentityAnswer",
    "InstanceState",
    "Job",
    "KnownStore",
    "Ledger",
    "LedgerError",
    "LedgerSchemaError",
    "LedgerUnreachableError",
    "MessageState",
    "OutboxMessage",
    "Resolution",
    "ResolutionRecord",
    "ResolutionState",
    "ReviewAnswer",
    "ReviewRecord",
    "ReviewTakenError",
    "RunRecord",
    "SignOff",
    "StoreOrigin",
    "StowState",
    "upgrade",
]
