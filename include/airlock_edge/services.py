"""What an association asks of the edge: the seam between the network and the services.

The network (`airlock_edge.association`) reads messages and sends responses. A service decides the status. Each handler
is called in the thread of its association, one message at a time; handlers of different associations run together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000
PROCESSING_FAILURE = 0x0110
NO_SUCH_ACTION = 0x0123


@dataclass(frozen=True)
class Caller:
    """The peer of an association, which is on the allow-list.

    Attributes
    ----------
    ae_title
        The calling AE title.
    address
        Its IP address.
    number
        The association's number since the edge started, for the log.
    """

    ae_title: str
    address: str
    number: int


@dataclass(frozen=True)
class EventReport:
    """An N-EVENT-REPORT request to send (PS3.7 section 10.1.1).

    Attributes
    ----------
    sop_class_uid, sop_instance_uid
        Affected SOP class and instance.
    event_type_id
        For Storage Commitment 1 (all succeeded) or 2 (failures exist).
    encode_information
        Returns the encoded data set for the transfer syntax of the presentation context.
    note_response
        Is called once: with the status of the response, or None if the association ended without one.
    """

    sop_class_uid: str
    sop_instance_uid: str
    event_type_id: int
    encode_information: Callable[[str], bytes]
    note_response: Callable[[int | None], None]


class Channel(Protocol):
    """An open association, as a service may use it after its handler returned."""

    def send_event(self, event: EventReport) -> bool:
        """Send an event between two messages of the peer; return False if the association is closed or closing."""


@dataclass(frozen=True)
class ActionRequest:
    """An N-ACTION request (PS3.7 section 10.1.4).

    Attributes
    ----------
    caller, channel
        Who asks, and the association, on which a result may be sent while it is open.
    sop_class_uid, sop_instance_uid
        Requested SOP class and instance.
    action_type_id
        For Storage Commitment 1.
    information
        The encoded data set, "" if the request has none.
    transfer_syntax
        Of the information.
    """

    caller: Caller
    channel: Channel
    sop_class_uid: str
    sop_instance_uid: str
    action_type_id: int
    information: bytes
    transfer_syntax: str


class ActionHandler(Protocol):
    """The Storage Commitment SCP."""

    def __call__(self, request: ActionRequest) -> int:
        """Return the status of the response; the request must be on disk by then if it is SUCCESS."""


@dataclass(frozen=True)
class StoreRequest:
    """A C-STORE request (PS3.7 section 9.1.1), before its data set is read."""

    caller: Caller
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str


class Sink(Protocol):
    """Where the data set of one object goes, piece by piece."""

    def write(self, piece: memoryview) -> None:
        """Take the next bytes; after a failure of the disk it drops them, and finish returns the failure."""

    def finish(self) -> int:
        """Make the object durable; return the status of the response."""

    def discard(self) -> None:
        """Forget an object whose association ended in the middle."""


class StoreHandler(Protocol):
    """The Storage SCP."""

    def __call__(self, request: StoreRequest) -> Sink:
        """Return the sink of the object."""


@dataclass(frozen=True)
class Services:
    """The services that an edge offers; Verification is always one.

    Attributes
    ----------
    store
        The Storage SCP.
    act
        The Storage Commitment SCP; None does not offer it.
    """

    store: StoreHandler
    act: ActionHandler | None = None
