"""A walk over the calls of an edge: it is killed before or after one of them and started again, and nothing is lost."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.edge_kills.calls import Plan, read_calls
from tests.edge_kills.items import make_small
from tests.edge_kills.process import PATIENCE, EdgeProcess, S3Objects, running, send_all, stored_file
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

ITEMS = [make_small(1), make_small(2)]


@dataclass(frozen=True)
class Walk:
    """The kills at the calls of the processes of one role.

    Attributes
    ----------
    s3
        The endpoint.
    folder
        For the edges.
    store
        The setting.
    role
        ``run`` or ``upload``.
    figures
        Counts of what happened.
    """

    s3: str
    folder: Path
    store: str
    role: str
    figures: Counter[str] = field(default_factory=Counter)

    def list_calls(self) -> list[str]:
        """Return the names of the calls of a run without a kill."""
        edge, objects, log = self._make("none")
        with running(edge, Plan(self.role, edge.port, str(log))):
            assert send_all(edge.port, ITEMS) == ITEMS
            self._wait_for_manifest(edge, objects)
        return read_calls(log)

    def kill_at(self, number: int, side: str) -> None:
        """Kill the process before or after a call, and check that nothing acknowledged is lost or changed."""
        edge, objects, log = self._make(f"{number}-{side}")
        marker = edge.folder / "killed"
        edge.start(Plan(self.role, edge.port, str(log), number, side, str(marker)))
        try:
            acknowledged = send_all(edge.port, ITEMS) if edge.wait_until_listening() else []
            until("it is killed or done", lambda: marker.exists() or self._is_done(edge, objects), PATIENCE)
            self.figures["killed" if marker.exists() else "not reached"] += 1
            if marker.exists() and self.role == "run":
                edge.wait_for_end()
                edge.start()
                assert edge.wait_until_listening(), edge.log.read_text()
            self._check(edge, objects, acknowledged)
        finally:
            edge.stop()

    def _make(self, name: str) -> tuple[EdgeProcess, S3Objects, Path]:
        prefix = f"{self.store}-{self.role}-{name}/"
        edge = EdgeProcess(self.folder / prefix, self.s3, prefix, store=self.store)
        return edge, S3Objects(self.s3, prefix), edge.folder / "calls"

    def _check(self, edge: EdgeProcess, objects: S3Objects, acknowledged: list[object]) -> None:
        edge.wait_until_drained()
        there = objects.bodies()
        lost = [item for item in acknowledged if stored_file(item) not in there]
        assert not lost, f"{len(lost)} acknowledged objects are not on S3"
        assert send_all(edge.port, ITEMS) == ITEMS, "a killed edge does not take what is sent again"
        self.figures["objects"] += len(ITEMS)
        self.figures["acknowledged before the kill"] += len(acknowledged)
        self.figures["sent again"] += len(ITEMS) - len(acknowledged)
        self._wait_for_manifest(edge, objects)
        assert sorted(objects.bodies()) == sorted(map(stored_file, ITEMS)), "S3 has something else than was sent"

    def _wait_for_manifest(self, edge: EdgeProcess, objects: S3Objects) -> None:
        until("all is on S3 and counted", lambda: self._is_done(edge, objects), PATIENCE)

    def _is_done(self, edge: EdgeProcess, objects: S3Objects) -> bool:
        if edge.spooled():
            return False
        keys = objects.list_keys()
        manifest = objects.find(keys[0].rpartition("/")[0] + "/delivery.json") if len(keys) == len(ITEMS) else None
        return manifest is not None and json.loads(manifest)["objects"] == len(ITEMS)
