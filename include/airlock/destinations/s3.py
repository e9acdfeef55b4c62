"""An S3 folder, which receives the contracts themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airlock.destinations.message import Message, aws_error, read_contract
from airlock.storage.s3 import S3Error

if TYPE_CHECKING:
    from airlock.storage.s3 import S3
    from airlock.storage.s3uri import S3Uri


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

    def send(self, message: Message) -> None:
        """Copy the contract; see `Destination.send`."""
        contract = read_contract(self.source, message)
        where = self.folder.join(contract_name(message.subject_key, message.revision))
        try:
            self.target.put(where, contract, "application/json")
        except S3Error as error:
            raise aws_error(error) from None


def contract_name(subject_key: str, revision: int) -> str:
    """Return a contract's key below a prefix, one per revision: a waiting message must find its own revision."""
    return f"{subject_key}/revision-{revision:06}.json"
