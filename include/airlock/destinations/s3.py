"""An S3 folder, which receives the contracts themselves."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airlock.destinations.message import Message, aws_error, read_contract
from airlock.storage.s3 import BucketError, S3Error

if TYPE_CHECKING:
    from airlock.storage.s3 import S3
    from airlock.storage.s3uri import S3Uri

_log = logging.getLogger(__name__)


class S3Folder:
    """Writes each contract as an object; a second write changes nothing.

    Parameters
    ----------
    source
        S3 of the workspace with the contracts.
    target
        S3 of the folder.
    folder
        The folder, one per data store: ``s3://bucket/prefix/<data store>/``.
    """

    def __init__(self, source: S3, target: S3, folder: S3Uri) -> None:
        self.source = source
        self.target = target
        self.folder = folder
        self._is_refused = False

    def send(self, message: Message) -> None:
        """Copy the contract; see `Destination.send`."""
        contract = read_contract(self.source, message)
        where = self.folder.join(contract_name(message.subject_key, message.revision))
        try:
            self.target.put(where, contract, "application/json")
        except BucketError as error:
            self._log_refusal(error)
            raise aws_error(error) from None
        except S3Error as error:
            raise aws_error(error) from None

    def _log_refusal(self, error: BucketError) -> None:
        """Log once what refuses the folder as a whole, with its cure: the outbox keeps only the code."""
        if not self._is_refused:
            self._is_refused = True
            _log.error("%s", error)


def contract_name(subject_key: str, revision: int) -> str:
    """Return a contract's key below a prefix, one per revision: a waiting message must find its own revision."""
    return f"{subject_key}/revision-{revision:06}.json"
