"""The monitor: looks at the spool and the disk, writes gauges and alarms, and serves the metrics on loopback."""

from __future__ import annotations

import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from time import monotonic, time
from typing import TYPE_CHECKING, ClassVar, Self

from airlock_edge.repeating import Repeating
from airlock_edge.revocations import describe_end, is_near
from airlock_edge.start_error import EdgeStartError, describe_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from types import TracebackType

    from airlock_edge.metrics import Metrics
    from airlock_edge.settings import Spool as SpoolSettings
    from airlock_edge.spool import Spool

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 10.0
_REPEAT_SECONDS = 600.0  # an alarm that lasts is logged again after this time
_LOOPBACK = ("127.0.0.1", "localhost")  # against DNS rebinding; a tunnel changes only the port


class Monitor(Repeating):
    """A thread that looks every ten seconds; a context manager.

    Parameters
    ----------
    settings
        The section ``spool``.
    spool, metrics
        Parts of the edge.
    note_more
        Is called at each look, to write further gauges.
    list_ends
        When the revocation list in use expires; None without one.
    """

    def __init__(
        self,
        settings: SpoolSettings,
        spool: Spool,
        metrics: Metrics,
        note_more: Callable[[], None] = lambda: None,
        *,
        list_ends: datetime | None = None,
    ) -> None:
        super().__init__("monitor")
        self._settings = settings
        self._list_ends = list_ends
        self._spool = spool
        self._metrics = metrics
        self._note_more = note_more
        self._since: dict[str, float] = {}  # by file, by the monotonic clock, which no change of the time moves
        self._has_looked = False
        self._logged: dict[str, float] = {}  # by alarm: when its line was written

    def _step(self) -> float:
        failure = ""
        try:
            self.look()
        except OSError as error:  # the other gauges and alarms keep their last values
            failure = error.strerror or type(error).__name__
        self._alarm("state_folder", f"the state folder cannot be looked at ({failure})", raised=bool(failure))
        self._note_more()
        return _LOOK_SECONDS

    def look(self) -> None:
        """Write the gauges and alarms of now."""
        count, size, oldest = self._measure()
        used = self._spool.used_percent()
        if used < self._settings.refuse_percent and not self._spool.reserve.is_there:
            self._spool.reserve.make()  # it counts as used already
        damaged = sum(1 for _ in self._spool.damaged.iterdir()) if self._spool.damaged.is_dir() else 0
        gauges = {
            "spool_objects": count,
            "spool_bytes": size,
            "spool_oldest_seconds": oldest,
            "disk_used_percent": used,
        }
        for name, value in gauges.items():
            self._metrics.put(name, value)
        self._metrics.put("damaged_objects", damaged)
        settings = self._settings
        self._alarm("disk_fills", f"{used:.0f} % of the disk is used", raised=used >= settings.alarm_percent)
        self._alarm("disk_full", "objects are refused, the disk is full", raised=used >= settings.refuse_percent)
        minutes = oldest / 60
        waits = f"the oldest of {count} objects has waited for S3 for {minutes:.0f} minutes"
        self._alarm("spool_old", waits, raised=minutes >= settings.alarm_minutes)
        self._alarm("damaged", f"{damaged} objects in damaged/ have lost bytes on the disk", raised=damaged > 0)
        if self._list_ends is not None:
            self._alarm("revocation_list", describe_end(self._list_ends), raised=is_near(self._list_ends))

    def _measure(self) -> tuple[int, int, float]:
        """Return the number and bytes of the files that wait, and the age of the oldest in seconds."""
        now, size, since = monotonic(), 0, {}
        for entry in self._spool.waiting():
            try:
                found = entry.stat()
            except FileNotFoundError:  # uploaded meanwhile
                continue
            size += found.st_size
            first_seen = now if self._has_looked else now - max(0.0, time() - found.st_mtime)
            since[entry.name] = self._since.get(entry.name, first_seen)
        self._since, self._has_looked = since, True
        return len(since), size, now - min(since.values(), default=now)

    def _alarm(self, name: str, text: str, *, raised: bool) -> None:
        self._metrics.put("alarm", float(raised), name=name)
        logged, now = self._logged.get(name), monotonic()
        if raised and (logged is None or now - logged >= _REPEAT_SECONDS):
            self._logged[name] = now
            _log.error("ALARM %s: %s", name, text)
        elif not raised and logged is not None:
            del self._logged[name]
            _log.info("alarm %s is over", name)


class MetricsServer:
    """Serves the metrics to Prometheus on loopback; a context manager.

    Parameters
    ----------
    metrics
        Of the edge.
    port
        0 for any free one.
    """

    def __init__(self, metrics: Metrics, port: int) -> None:
        handler = type("Handler", (_Handler,), {"page": metrics.page})
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError as error:
            raise EdgeStartError(
                f"metrics_port: port {port} cannot be opened ({describe_error(error)}): choose another one, or 0"
            ) from None
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, name="metrics")

    @property
    def port(self) -> int:
        """The port."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        _log.info("metrics on 127.0.0.1:%d", self.port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    page: ClassVar[Callable[[], str]]

    def do_GET(self) -> None:
        """Answer with the page; refuse other names in Host, which a web page could resolve to this machine."""
        if str(self.headers["Host"]).partition(":")[0] not in _LOOPBACK:
            self.send_error(403)
            return
        body = type(self).page().encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        """Write no line for a request."""
