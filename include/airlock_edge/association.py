"""One association: the upper layer's acceptor in one thread, which blocks on the socket (PS3.8 section 9.2).

The thread reads messages, gives data sets to the services piece by piece as they come, and sends the responses. Events
that a service wants to send go out between two messages of the peer.
"""

from __future__ import annotations

import logging
import os
import select
import socket
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from socket import SHUT_RDWR, SHUT_WR
from ssl import SSLContext, SSLError, SSLSocket
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from airlock_edge import services
from airlock_edge.admission import Admission, RefusedError
from airlock_edge.certificates import find_names
from airlock_edge.dimse import RESPONSE, Command, CommandError, CommandSet, Field, encode_command, encode_response
from airlock_edge.negotiation import COMMITMENT, Context, Negotiator, Proposal, find_calling
from airlock_edge.pdus import (
    RELEASE_RESPONSE,
    AbortReason,
    Fragment,
    PduReader,
    PduType,
    PeerLeftError,
    ProtocolError,
    encode_abort,
    encode_message,
    judge_kind,
    read_fragments,
)
from airlock_edge.start_error import describe_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from airlock_edge.metrics import Metrics
    from airlock_edge.rate import Rate
    from airlock_edge.settings import Listen

_log = logging.getLogger(__name__)

_NEGOTIATION_SECONDS = 30  # the ARTIM timer (PS3.8 section 9.1.5)
_LONGEST_COMMAND = 64 * 1024
_MOST_INFORMATION = 20 * 1024 * 1024  # of an N-ACTION, in memory; one for 100,000 instances has 15 MB
_UNRECOGNIZED_OPERATION, _RESOURCE_LIMITATION = 0x0211, 0x0213  # statuses (PS3.7 annex C)


@dataclass(frozen=True)
class Server:
    """What all associations share."""

    listen: Listen
    negotiator: Negotiator
    admission: Admission
    services: services.Services
    metrics: Metrics
    rate: Rate
    tls: SSLContext | None = None


class StoppedError(Exception):
    """The edge is being stopped."""


class _PeerAbortedError(Exception):
    """The peer sent an A-ABORT."""


class _Message(Protocol):
    """A message whose data set is being received."""

    def write(self, piece: memoryview) -> None:
        """Take the next bytes of the data set."""

    def finish(self) -> int:
        """Return the status of the response."""

    def discard(self) -> None:
        """Forget it."""


class _Information:
    """The data set of an N-ACTION."""

    def __init__(self, act: Callable[[bytes], int]) -> None:
        self._act = act
        self._content: bytearray | None = bytearray()

    def write(self, piece: memoryview) -> None:
        if self._content is not None:
            self._content += piece
            if len(self._content) > _MOST_INFORMATION:
                self._content = None

    def finish(self) -> int:
        return _RESOURCE_LIMITATION if self._content is None else self._act(bytes(self._content))

    def discard(self) -> None:
        self._content = None


class _Unwanted:
    """The data set of a request that is refused: it is read, so that the peer gets the response."""

    def __init__(self, status: int) -> None:
        self._status = status

    def write(self, piece: memoryview) -> None:
        pass

    def finish(self) -> int:
        return self._status

    def discard(self) -> None:
        pass


@dataclass
class _Outbox:
    """The events of an association, under a lock since services fill it from other threads."""

    lock: Lock = field(default_factory=Lock)
    waiting: deque[services.EventReport] = field(default_factory=deque)
    closed: bool = False


class Association:
    """One connection of a peer.

    Parameters
    ----------
    connection
        The accepted socket.
    address
        The peer's IP address.
    number
        Of the association since the edge started.
    server
        What all associations share.
    note_admitted
        Is called when the peer is admitted.
    """

    def __init__(
        self, connection: socket.socket, address: str, number: int, server: Server, note_admitted: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._address = address
        self._server = server
        self._note_admitted = note_admitted
        self._is_open = False  # the request was accepted
        self._caller = services.Caller("", address, number)
        self._reader = PduReader(connection, server.rate.take)
        self._contexts: dict[int, Context] = {}
        self._peer_takes = 0  # bytes of the largest PDU that the peer takes
        self._command = bytearray()
        self._command_context: int | None = None  # of the command that is being received
        self._message: tuple[int, CommandSet, _Message] | None = None
        self._objects = 0
        self._outbox = _Outbox()
        self._sent: dict[int, services.EventReport] = {}  # events without a response so far, by message id
        self._next_id = 1
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopped = False
        self._closes_last = False  # the edge has sent the last PDU, and the peer is to close the connection

    def stop(self) -> None:
        """End the association between two messages, and a connection without one at once; any thread may ask."""
        self._stopped = True
        if not self._is_open:
            with suppress(OSError):  # it has ended
                socket.socket.shutdown(self._connection, SHUT_RDWR)  # not that of TLS, which is another thread's
        with self._outbox.lock:
            self._wake()

    def send_event(self, event: services.EventReport) -> bool:
        """Send an event between two messages of the peer; return False if the association is closed."""
        with self._outbox.lock:
            if self._outbox.closed:
                return False
            self._outbox.waiting.append(event)
            self._wake()
        return True

    def _wake(self) -> None:
        """Wake the association's thread; under the lock, since a closed descriptor may be another file's by now."""
        if not self._outbox.closed:
            os.eventfd_write(self._alarm, 1)

    def run(self) -> None:
        """Serve the peer until the association ends, for whatever reason; raise nothing."""
        try:
            self._connection.settimeout(_NEGOTIATION_SECONDS)
            if self._server.tls is not None:
                self._encrypt(self._server.tls)
            self._serve_peer()
        except RefusedError as error:
            self._refuse(error)
        except ProtocolError as error:
            self._abort(error.reason, str(error))
        except TimeoutError:
            self._end_late()
        except StoppedError:
            self._abort(None, "the edge is being stopped")
        except _PeerAbortedError:
            self._note_end("the peer aborted it")
        except SSLError as error:
            self._note_end(f"TLS failed ({describe_error(error)})")
        except (PeerLeftError, OSError) as error:
            self._note_end(f"the connection ended without a release ({type(error).__name__})")
        except Exception as error:  # noqa: BLE001 - a defect ends one association; its text may quote the peer's data
            _log.error("association %d: a defect of the edge: %s", self._caller.number, _describe_defect(error))
            self._abort(AbortReason.NOT_SPECIFIED, f"a defect of the edge ({type(error).__name__})")
        finally:
            self._close()

    def abandon(self) -> None:
        """Close what was never run."""
        self._close()

    def _encrypt(self, tls: SSLContext) -> None:
        self._connection = tls.wrap_socket(self._connection, server_side=True, do_handshake_on_connect=False)
        self._reader = PduReader(self._connection, self._server.rate.take)
        if self._stopped:  # maybe before the socket was replaced: then that one was shut down
            socket.socket.shutdown(self._connection, SHUT_RDWR)
        self._connection.do_handshake()

    def _serve_peer(self) -> None:
        proposal = self._read_proposal()
        self._caller = services.Caller(proposal.calling, self._address, self._caller.number)
        names = find_names(self._connection.getpeercert()) if isinstance(self._connection, SSLSocket) else ()
        with self._server.admission.admit(proposal, self._address, names):
            self._note_admitted()
            self._contexts, accept = self._server.negotiator.negotiate(proposal)
            self._peer_takes = proposal.most_bytes
            self._reader.expect_pace(self._server.listen.stalled_seconds)
            self._is_open = True
            self._connection.sendall(accept)
            self._server.metrics.count("associations_total", ae_title=proposal.calling)
            _log.info("association %d: %s opened it, %d contexts", *self._name, len(self._contexts))
            self._serve_messages()
            _log.info("association %d: %s released it after %d objects", *self._name, self._objects)

    @property
    def _name(self) -> tuple[int, str]:
        return self._caller.number, self._caller.ae_title or self._address

    def _read_proposal(self) -> Proposal:
        self._reader.limit_time(_NEGOTIATION_SECONDS)
        kind, length = self._reader.read_head()
        if kind == PduType.ABORT:
            raise _PeerAbortedError
        if kind != PduType.ASSOCIATE_RQ:
            raise ProtocolError("the first PDU is not an association request", AbortReason.UNEXPECTED_PDU)
        encoded = bytes((kind, 0)) + length.to_bytes(4, "big") + self._reader.take(length)
        if not self._server.admission.knows_address(self._address):  # to decode a large one would cost seconds
            self._caller = services.Caller(find_calling(encoded), self._address, self._caller.number)
            raise self._server.admission.refuse_stranger(self._caller.ae_title)
        return Proposal(encoded)

    def _serve_messages(self) -> None:
        """Read PDUs until the peer releases the association."""
        while True:
            if self._is_between_messages:
                self._wait_for_peer()
                self._reader.expect_pace(self._server.listen.stalled_seconds)
            kind, length = self._reader.read_head()
            if kind == PduType.DATA:
                for fragment in read_fragments(self._reader, length):
                    self._take_fragment(fragment)
                continue
            self._reader.take(length)
            if kind == PduType.ABORT:
                raise _PeerAbortedError
            if kind != PduType.RELEASE_RQ or not self._is_between_messages:
                reason = judge_kind(kind, AbortReason.UNEXPECTED_PDU)
                raise ProtocolError(f"a PDU of type {kind} came in its place", reason)
            self._closes_last = True
            self._connection.sendall(RELEASE_RESPONSE)
            return

    @property
    def _is_between_messages(self) -> bool:
        return self._message is None and self._command_context is None

    def _wait_for_peer(self) -> None:
        """Wait for the next message, and send events meanwhile."""
        while True:
            self._send_events()
            if self._stopped:
                raise StoppedError
            if self._reader.has_bytes or (isinstance(self._connection, SSLSocket) and self._connection.pending()):
                return
            poll = select.poll()
            poll.register(self._connection, select.POLLIN)
            poll.register(self._alarm, select.POLLIN)
            ready = dict(poll.poll(self._server.listen.idle_seconds * 1000))
            if not ready:
                raise TimeoutError
            if self._alarm in ready:
                os.eventfd_read(self._alarm)
            elif self._connection.fileno() in ready:
                return

    def _send_events(self) -> None:
        while self._outbox.waiting:
            message = self._encode_event(self._outbox.waiting.popleft())
            if message is not None:
                self._connection.sendall(message)

    def _encode_event(self, event: services.EventReport) -> bytes | None:
        """Return the PDUs of an event; None, after its note, if the peer did not negotiate its class."""
        fitting = (one for one, context in self._contexts.items() if context.abstract_syntax == event.sop_class_uid)
        number = next(fitting, None)
        if number is None:
            event.note_response(None)
            return None
        message_id, self._next_id = self._next_id, self._next_id % 0xFFFF + 1
        self._sent[message_id] = event  # the end of the association is its response, should it fail from here on
        command = encode_command(
            {
                Field.AFFECTED_CLASS: event.sop_class_uid,
                Field.COMMAND: Command.N_EVENT_REPORT,
                Field.MESSAGE_ID: message_id,
                Field.AFFECTED_INSTANCE: event.sop_instance_uid,
                Field.EVENT_TYPE: event.event_type_id,
            },
            data_set=True,
        )
        self._server.metrics.count("events_total", ae_title=self._caller.ae_title)
        return encode_message(
            number, command, event.encode_information(self._contexts[number].transfer_syntax), self._peer_takes
        )

    def _take_fragment(self, fragment: Fragment) -> None:
        if fragment.context not in self._contexts:
            raise ProtocolError("a message has a presentation context that was not accepted")
        if fragment.is_command:
            self._take_command(fragment)
            return
        if self._message is None or self._message[0] != fragment.context:
            raise ProtocolError("a data set has no command, or another presentation context")
        _, command, message = self._message
        for piece in self._reader.pieces(fragment.size):
            message.write(piece)
        if fragment.is_last:
            status = message.finish()
            self._message = None
            if not command.command & RESPONSE:
                self._answer(fragment.context, command, status)

    def _take_command(self, fragment: Fragment) -> None:
        if self._message is not None or len(self._command) + fragment.size > _LONGEST_COMMAND:
            raise ProtocolError("a command is too long, or comes within a data set")
        if self._command_context not in {None, fragment.context}:
            raise ProtocolError("a command goes on in another presentation context")
        self._command_context = fragment.context
        self._command += self._reader.take(fragment.size)
        if not fragment.is_last:
            return
        try:
            command = CommandSet(bytes(self._command))
            self._command.clear()
            self._command_context = None
            self._begin(fragment.context, command)
        except CommandError as error:
            raise ProtocolError(str(error)) from None

    def _begin(self, number: int, command: CommandSet) -> None:
        """Begin a message; answer it if it has no data set."""
        if command.command & RESPONSE:
            self._note_response(command)
            if command.has_data_set:  # an Event Reply (PS3.7 section 10.1.1.1), which is read and dropped
                self._message = number, command, _Unwanted(services.SUCCESS)
        elif command.command == Command.C_CANCEL:
            if command.has_data_set:
                raise ProtocolError("a cancel request has a data set")
        elif command.has_data_set:
            self._message = number, command, self._open(self._contexts[number], command)
        else:
            self._answer(number, command, self._perform(self._contexts[number], command))

    def _open(self, context: Context, command: CommandSet) -> _Message:
        """Return what takes the data set of a request."""
        if command.command == Command.C_STORE and self._server.negotiator.is_storage(context.abstract_syntax):
            classes = command.uid(Field.AFFECTED_CLASS) or context.abstract_syntax, command.uid(Field.AFFECTED_INSTANCE)
            return self._server.services.store(services.StoreRequest(self._caller, *classes, context.transfer_syntax))
        if command.command == Command.N_ACTION and context.abstract_syntax == COMMITMENT:
            return _Information(lambda information: self._act(context, command, information))
        return _Unwanted(_UNRECOGNIZED_OPERATION)

    def _perform(self, context: Context, command: CommandSet) -> int:
        """Return the status of a request without a data set."""
        if command.command == Command.C_ECHO:
            return services.SUCCESS
        if command.command == Command.C_STORE:
            return services.CANNOT_UNDERSTAND
        if command.command == Command.N_ACTION and context.abstract_syntax == COMMITMENT:
            return self._act(context, command, b"")
        return _UNRECOGNIZED_OPERATION

    def _act(self, context: Context, command: CommandSet, information: bytes) -> int:
        act = self._server.services.act
        if act is None:
            return _UNRECOGNIZED_OPERATION
        return act(
            services.ActionRequest(
                caller=self._caller,
                channel=self,
                sop_class_uid=command.uid(Field.REQUESTED_CLASS),
                sop_instance_uid=command.uid(Field.REQUESTED_INSTANCE),
                action_type_id=command.number(Field.ACTION_TYPE),
                information=information,
                transfer_syntax=context.transfer_syntax,
            )
        )

    def _answer(self, number: int, command: CommandSet, status: int) -> None:
        self._objects += command.command == Command.C_STORE and status == services.SUCCESS
        self._connection.sendall(encode_message(number, encode_response(command, status), None, self._peer_takes))

    def _note_response(self, response: CommandSet) -> None:
        event = self._sent.pop(response.number(Field.RESPONDED_ID), None)
        if event is not None:
            event.note_response(response.number(Field.STATUS))

    def _refuse(self, error: RefusedError) -> None:
        self._server.metrics.count_refusal(self._caller.ae_title, str(error))
        _log.warning("association %d: refused %r from %s: %s", *self._name, self._caller.address, error.rejection.text)
        self._closes_last = True
        with suppress(OSError):
            self._connection.sendall(error.rejection.encode())

    def _abort(self, reason: AbortReason | None, why: str) -> None:
        self._note_end(why)
        self._closes_last = True
        with suppress(OSError):
            self._connection.sendall(encode_abort(reason if self._is_open else None))  # AA-1 and AA-8 of PS3.8 9.2.3

    def _end_late(self) -> None:
        if self._is_open:
            self._abort(AbortReason.NOT_SPECIFIED, "nothing came in time")
        else:  # the ARTIM timer expired: AA-2 of PS3.8 section 9.2.3
            self._note_end("no association request came in time")

    def _note_end(self, why: str) -> None:
        within = " in the middle of a message" if self._message is not None else ""
        self._server.metrics.count("broken_associations_total")
        _log.warning("association %d: %s ended%s: %s", *self._name, within, why)

    def _close(self) -> None:
        if self._message is not None:
            self._message[2].discard()
        with self._outbox.lock:
            self._outbox.closed = True
            os.close(self._alarm)
        for event in (*self._sent.values(), *self._outbox.waiting):
            event.note_response(None)
        if self._closes_last:
            self._drain()
        self._connection.close()

    def _drain(self) -> None:
        """Let the peer close first, so that it reads the last PDU (PS3.8, state 13)."""
        with suppress(OSError, PeerLeftError):
            if not isinstance(self._connection, SSLSocket):
                self._connection.shutdown(SHUT_WR)
            self._reader.limit_time(_DRAIN_SECONDS)
            for _ in self._reader.pieces(_MOST_DRAINED):
                pass


_DRAIN_SECONDS = 2
_MOST_DRAINED = 16 * 1024 * 1024


def _describe_defect(error: BaseException) -> str:
    """Return the class of an error and where it was raised, without its text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" at {trace.tb_frame.f_code.co_name}:{trace.tb_lineno}"
    return f"{type(error).__name__}{where}"
