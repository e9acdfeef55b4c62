"""What an acceptor answers to a peer's bytes by PS3.8 table 9-10 and PS3.7: a second, slow reading of the standard.

The association was accepted with the given presentation contexts; the bytes are all that the peer sends before it
closes its side. The model reads them whole, so it has no state to get wrong.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tests.fuzz.messages import C_CANCEL, C_ECHO, C_STORE, ECHO, N_ACTION, NO_DATA_SET

SUCCESS, NOT_UNDERSTOOD, UNRECOGNIZED_OPERATION = 0x0000, 0xC000, 0x0211
KNOWN = range(0x01, 0x08)
MOST_DATA, MOST_OTHER, MOST_COMMAND = 64 << 20, 1 << 20, 64 << 10


@dataclass
class Answers:
    """What the peer gets, in order, and what is stored.

    Attributes
    ----------
    responses
        Context, message id and status of each response.
    end
        ``released``, ``closed``, or ``abort`` with source and reason.
    stored
        The data sets that were acknowledged.
    """

    responses: list[tuple[int, int, int]] = field(default_factory=list)
    end: str = "closed"
    stored: list[bytes] = field(default_factory=list)


class _EndError(Exception):
    pass


class _ShortError(Exception):
    """The bytes end."""


class Model:
    """Reads what a peer sends.

    Parameters
    ----------
    contexts
        Abstract syntax by presentation context.
    """

    def __init__(self, contexts: dict[int, str]) -> None:
        self._contexts = contexts
        self._command: tuple[int, bytes] | None = None
        self._open: tuple[int, dict[int, bytes], bytes] | None = None
        self.answers = Answers()

    def read(self, sent: bytes) -> Answers:
        """Return what the peer gets."""
        try:
            at = 0
            while at < len(sent):
                at = self._read_pdu(sent, at)
        except (_EndError, _ShortError):
            pass
        return self.answers

    def _end(self, end: str) -> None:
        self.answers.end = end
        raise _EndError

    def _read_pdu(self, sent: bytes, at: int) -> int:
        if len(sent) - at < 6:
            raise _ShortError
        kind, length = struct.unpack_from(">BxI", sent, at)
        if length > (MOST_DATA if kind == 4 else MOST_OTHER):
            self._end("abort 2 6" if kind in KNOWN else "abort 2 1")
        body = sent[at + 6 : at + 6 + length]
        if kind == 4:
            self._read_items(body, length)
        elif len(body) < length:
            raise _ShortError
        elif kind == 7:
            self._end("closed")
        elif kind == 5 and self._open is None and self._command is None:
            self._end("released")
        else:
            self._end("abort 2 2" if kind in KNOWN else "abort 2 1")
        return at + 6 + length

    def _read_items(self, body: bytes, length: int) -> None:
        """Read the PDVs; `length` is what the PDU says it has, and `body` what there is."""
        at = 0
        while at < length:
            if length - at < 6:
                self._end("abort 2 6")
            if len(body) - at < 6:
                raise _ShortError
            size, context, control = struct.unpack_from(">IBB", body, at)
            if size < 2 or size > length - at - 4:
                self._end("abort 2 6")
            content = body[at + 6 : at + 4 + size]
            self._check_fragment(context, size - 2, is_command=bool(control & 1))
            if len(content) < size - 2:
                raise _ShortError
            self._take(context, content, is_command=bool(control & 1), is_last=bool(control & 2))
            at += 4 + size

    def _check_fragment(self, context: int, size: int, *, is_command: bool) -> None:
        if context not in self._contexts:
            self._end("abort 2 6")
        if not is_command:
            if self._open is None or self._open[0] != context:
                self._end("abort 2 6")
            return
        had = self._command or (context, b"")
        if self._open is not None or had[0] != context or len(had[1]) + size > MOST_COMMAND:
            self._end("abort 2 6")

    def _take(self, context: int, content: bytes, *, is_command: bool, is_last: bool) -> None:
        if is_command:
            whole = (self._command or (context, b""))[1] + content
            self._command = None if is_last else (context, whole)
            if is_last:
                self._begin(context, self._read_command(whole))
            return
        assert self._open is not None
        number, command, had = self._open
        self._open = number, command, had + content
        if is_last:
            self._open = None
            self._finish(context, command, had + content)

    def _read_command(self, encoded: bytes) -> dict[int, bytes]:
        values: dict[int, bytes] = {}
        at = 0
        while at < len(encoded):
            if len(encoded) - at < 8:
                self._end("abort 2 6")
            group, number, length = struct.unpack_from("<HHI", encoded, at)
            if group or length > len(encoded) - at - 8:
                self._end("abort 2 6")
            values[number] = encoded[at + 8 : at + 8 + length]
            at += 8 + length
        for number in (0x0100, 0x0800, *self._needed(values)):
            if len(values.get(number, b"")) != 2:
                self._end("abort 2 6")
        return values

    def _needed(self, values: dict[int, bytes]) -> tuple[int, ...]:
        command = _number(values, 0x0100)
        if command & 0x8000:
            return 0x0120, 0x0900
        if command == C_CANCEL:
            return ()
        return (0x0110, 0x1008) if command == N_ACTION else (0x0110,)

    def _begin(self, context: int, command: dict[int, bytes]) -> None:
        kind, has_data_set = _number(command, 0x0100), _number(command, 0x0800) != NO_DATA_SET
        if kind == C_CANCEL and has_data_set:
            self._end("abort 2 6")
        if has_data_set:
            self._open = context, command, b""
        elif not kind & 0x8000 and kind != C_CANCEL:
            fixed = {C_ECHO: SUCCESS, C_STORE: NOT_UNDERSTOOD}
            self._answer(context, command, fixed.get(kind, UNRECOGNIZED_OPERATION))

    def _finish(self, context: int, command: dict[int, bytes], content: bytes) -> None:
        if _number(command, 0x0100) & 0x8000:
            return
        is_stored = _number(command, 0x0100) == C_STORE and self._contexts[context] != ECHO
        if is_stored:
            self.answers.stored.append(content)
        self._answer(context, command, SUCCESS if is_stored else UNRECOGNIZED_OPERATION)

    def _answer(self, context: int, command: dict[int, bytes], status: int) -> None:
        self.answers.responses.append((context, _number(command, 0x0110), status))


def _number(values: dict[int, bytes], number: int) -> int:
    value = values.get(number, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else 0
