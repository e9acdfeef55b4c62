"""The message that every destination is sent, and what a destination is."""

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
    """Word of one released contract; the contract itself stays on S3, since it names a patient.

    Parameters
    ----------
    deduplication_id
        64 hex digits, the same whenever the same content goes to the same destination.
    pipeline, run_key
        Which pipeline and run released it.
    subject_key
        Of a study its study_key; reveals no identifier.
    revision
        Of the contract, rising.
    content_digest
        64 hex digits, equal where the content is.
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
        """Return what is sent of a row of the outbox."""
        return cls(
            deduplication_id=digest(row.destination, row.subject_key, row.content_digest, length=64),
            pipeline=row.pipeline,
            run_key=row.run_key,
            subject_key=row.subject_key,
            revision=row.revision,
            content_digest=row.content_digest,
            contract_uri=row.payload_uri,
        )

    def to_json(self) -> str:
        """Return the body that queues, topics, buses and webhooks get; some hundred bytes."""
        return json.dumps({"schema": SCHEMA} | vars(self), sort_keys=True)


class DestinationError(RuntimeError):
    """A destination did not take a message.

    Parameters
    ----------
    code
        One word for the ledger and the log, as ``http_503`` or ``NonExistentQueue``; no free text of a server.
    retryable
        Whether the same message may be taken later: the destination is down, slow, or set up wrongly. What refuses the
        message for what it is, does so for good.
    retry_after
        Seconds that the destination asks to be left alone.
    """

    def __init__(self, code: str, *, retryable: bool, retry_after: float | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.retryable = retryable
        self.retry_after = retry_after


class Destination(Protocol):
    """What takes messages; called from several threads at a time, for one subject from one."""

    def send(self, message: Message) -> None:
        """Hand a message over, and return when the destination has it for certain.

        Sending the same one again must do no harm: it has the same deduplication id.

        Raises
        ------
        DestinationError
            If the destination does not have it, or may not have it.
        """


def aws_error(error: Exception, for_good: frozenset[str] = frozenset()) -> DestinationError:
    """Return what an AWS service's refusal means.

    Parameters
    ----------
    error
        One of `airlock.storage.aws.AWS_ERRORS`, or an S3Error.
    for_good
        The service's error codes that refuse the message for what it is.
    """
    code = error.code if isinstance(error, S3Error) else error_code(error)
    code = code.rpartition(".")[2]
    return DestinationError(code, retryable=code not in for_good)


def read_contract(s3: S3, message: Message) -> bytes:
    """Return the JSON of the contract that a message is about, from the workspace.

    Raises
    ------
    DestinationError
        If it is there no more, or cannot be read now.
    """
    try:
        return s3.get(S3Uri.parse(message.contract_uri))
    except FileNotFoundError:
        raise DestinationError("contract_gone", retryable=False) from None
    except BucketError:
        raise DestinationError("workspace_unreadable", retryable=True) from None
    except S3Error as error:
        raise aws_error(error) from None
