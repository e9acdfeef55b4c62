"""A peer that asks an edge for storage commitment, and takes the results on both kinds of associations."""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, StorageCommitmentPushModel

from airlock_edge.commitment.reactor import guard_responses
from tests.servers.edge import CALLER, TITLE
from tests.waiting import PATIENCE, until

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator

PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"


@dataclass
class Result:
    """A result as it was taken: the Failure Reason of each instance, None for a committed one."""

    event_type: int
    instances: dict[str, int | None]
    association: str  # "own" or "new"


@dataclass
class Peer:
    """The peer. It answers each result with `status`."""

    port: int = 0  # of the edge
    title: str = CALLER
    status: int = 0x0000
    listens_on: int = 0
    results: dict[str, list[Result]] = field(default_factory=dict)  # by Transaction UID
    refuses: int = 0  # how many results are to be answered with a failure
    tls: ssl.SSLContext | None = None  # for associations with the edge

    def _take(self, event: Any, association: str) -> tuple[int, None]:
        if self.refuses:
            self.refuses -= 1
            return 0x0110, None
        content = event.event_information
        found: dict[str, int | None] = {
            str(one.ReferencedSOPInstanceUID): None for one in content.get("ReferencedSOPSequence", [])
        }
        failed = content.get("FailedSOPSequence", [])
        found |= {str(one.ReferencedSOPInstanceUID): int(one.FailureReason) for one in failed}
        result = Result(int(event.event_type), found, association)
        self.results.setdefault(str(content.TransactionUID), []).append(result)
        return self.status, None

    @contextmanager
    def associated(self) -> Iterator[Any]:
        """Yield an association with the edge."""
        ae = AE(self.title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = PATIENCE
        ae.add_requested_context(CTImageStorage)
        ae.add_requested_context(StorageCommitmentPushModel)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._take, ["own"])]
        tls = None if self.tls is None else (self.tls, "127.0.0.1")
        association = ae.associate("127.0.0.1", self.port, ae_title=TITLE, evt_handlers=handlers, tls_args=tls)
        assert association.is_established
        guard_responses(association)
        try:
            yield association
        finally:
            association.release()

    def send(self, *files: bytes) -> None:
        """Store files."""
        with self.associated() as association:
            for file in files:
                assert association.send_c_store(pydicom.dcmread(io.BytesIO(file))).Status == 0x0000

    def ask(
        self,
        uids: Iterable[str],
        transaction: str | None = None,
        sop_class: str = CTImageStorage,
        association: Any = None,
        **asked: Any,
    ) -> tuple[str, int]:
        """Ask for commitment; return the Transaction UID and the status."""
        content = Dataset()
        content.TransactionUID = transaction or generate_uid()
        content.ReferencedSOPSequence = [_refer(sop_class, uid) for uid in uids]
        arguments = {"action_type": 1, "class_uid": StorageCommitmentPushModel, "instance_uid": PUSH_MODEL_INSTANCE}
        if association is not None:
            answer, _ = association.send_n_action(content, **(arguments | asked))
        else:
            with self.associated() as own:
                answer, _ = own.send_n_action(content, **(arguments | asked))
        return str(content.TransactionUID), int(answer.Status)

    def result(self, transaction: str) -> Result:
        """Wait for the result of a transaction, and return it."""
        # The edge follows a look that took a second by ten without one.
        until("a result comes", lambda: transaction in self.results, 2 * PATIENCE)
        return self.results[transaction][-1]


def _refer(sop_class: str, uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    return item


@contextmanager
def listening(peer: Peer, *, answers_role: bool = True, tls: ssl.SSLContext | None = None) -> Iterator[Peer]:
    """Let a peer take results on associations that the edge opens."""
    ae = AE(peer.title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = PATIENCE
    if answers_role:
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    else:
        ae.add_supported_context(StorageCommitmentPushModel)
    handlers = [(evt.EVT_N_EVENT_REPORT, peer._take, ["new"])]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=tls)
    peer.listens_on = int(server.server_address[1])
    try:
        yield peer
    finally:
        server.shutdown()
