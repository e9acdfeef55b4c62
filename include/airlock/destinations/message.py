"""The message about a released contract, and the protocol of destinations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from airlock.records import digest
from airlock.storage.aws import error_code
from airlock.storage.s3 import BucketError, S3Error
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.ledger import OutboxMessage
    from airlock.storage.s3 import S3

SCHEMA = "airlock.message/1"


@dataclass(frozen=True)
class Message:
    """A message about one released contract; the contract itself stays on S3, since it names a patient.

    Parameters
    ----------
    deduplication_id
        64 hex digits, the same for the same revision, content and destination.
    pipeline, run_key
        The pipeline and the run that released it.
    subject_key
        For a study its study_key; reveals no identifier.
    revision
        The revision of the contract; later ones are higher.
    content_digest
        64 hex digits, the same for the same content.
    contract_uri
        s3:// address of the contract's JSON.
    """

    deduplication_id: str
    pipeline: str
    run_key: str
    subject_key: str
    revision: int
    content_digest: str
    contract_uri: str

    @classmethod
    def of(cls, row: OutboxMessage) -> Message:
        """Return the message for a row of the outbox."""
        return cls(
            deduplication_id=digest(row.destination, row.subject_key, row.revision, row.content_digest, length=64),
            pipeline=row.pipeline,
            run_key=row.run_key,
            subject_key=row.subject_key,
            revision=row.revision,
            content_digest=row.content_digest,
            contract_uri=row.payload_uri,
        )

    def to_json(self) -> str:
        """Return the JSON body for queues, topics, buses and webhooks; some hundred bytes."""
        return json.dumps({"schema": SCHEMA} | vars(self), sort_keys=True)


class DestinationError(RuntimeError):
    """A destination did not take a message.

    Parameters
    ----------
    code
        A code for the ledger and the log, for example ``http_503`` or ``NonExistentQueue``; no free text of a server.
    retryable
        Whether the destination may take the same message later: it is down, slow, or configured wrongly. False if it
        refuses the message because of its content.
    retry_after
        Seconds that the destination asks to wait.
    """

    def __init__(self, code: str, *, retryable: bool, retry_after: float | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.retryable = retryable
        self.retry_after = retry_after


class Destination(Protocol):
    """A receiver of messages; called from several threads at a time, but for one subject from one thread."""

    def send(self, message: Message) -> None:
        """Deliver a message; return when the destination has it for certain.

        A message that is sent twice must do no harm: it has the same deduplication id.

        Raises
        ------
        DestinationError
            If the destination does not have it, or may not have it.
        """


def aws_error(error: Exception, for_good: frozenset[str] = frozenset()) -> DestinationError:
    """Return the DestinationError for an error of an AWS service.

    Parameters
    ----------
    error
        One of `airlock.storage.aws.AWS_ERRORS`, or an S3Error.
    for_good
        The service's error codes that refuse the message because of its content.
    """
    code = error.code if isinstance(error, S3Error) else error_code(error)
    code = code.rpartition(".")[2]
    return DestinationError(code, retryable=code not in for_good)


def read_contract(s3: S3, message: Message) -> bytes:
    """Return the JSON of a message's contract from the workspace.

    Raises
    ------
    DestinationError
        If it no longer exists, or cannot be read now.
    """
    try:
        return s3.get(S3Uri.parse(message.contract_uri))
    except FileNotFoundError:
        raise DestinationError("contract_gone", retryable=False) from None
    except BucketError:
        raise DestinationError("workspace_unreadable", retryable=True) from None
    except S3Error as error:
        raise aws_error(error) from None
