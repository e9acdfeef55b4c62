"""The sender's staff sees what was refused, and what a new request would commit by now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from typer.testing import CliRunner

from airlock_edge.__main__ import app
from airlock_edge.book import Received, State
from airlock_edge.commitment.information import Reference, Request
from airlock_edge.commitment.store import Told
from tests.servers.edge import CALLER, write_settings

if TYPE_CHECKING:
    from pathlib import Path

    from airlock_edge.book import Book
    from airlock_edge.commitment.store import CommitmentStore

CT = "1.2.840.10008.5.1.4.1.1.2"


def received(number: int) -> Received:
    return Received(f"k{number}", f"1.{number}", CT, "1.2", CALLER, "aaaa", "00", 5, State.DURABLE, "", "")


def refuse(book: Book, store: CommitmentStore, *told: str) -> None:
    """Let a request about these instances, and one that never came, be answered a failure."""
    book.add([received(number) for number, _ in enumerate(told)])
    words = (Told(f"k{number}", state, state, "truncated", (1, 1)) for number, state in enumerate(told))
    store.note_told(words)
    references = tuple(Reference(CT, f"1.{number}") for number in (*range(len(told)), 9))
    store.add(CALLER, Request("1.9", references))
    (request,) = store.list_in("waiting")
    store.decide(request.number, [None if state == "imported" else 0x0110 for state in (*told, "unknown")])


def listed(folder: Path, *options: str) -> list[str]:
    """Return what the command says; the book is in the folder's ``state``."""
    path = write_settings(folder.parent / "settings", "http://127.0.0.1:1", state=str(folder))
    result = CliRunner().invoke(app, ["uncommitted", str(path), *options])
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def test_what_is_safe_by_now_is_told_apart_from_what_is_not(book: Book, store: CommitmentStore, tmp_path: Path) -> None:
    (tmp_path.parent / "settings").mkdir(exist_ok=True)
    refuse(book, store, "imported", "failed", "failed")
    store.note_told([Told("k1", "released", "released", None, (2, 1))])
    of_study, never = listed(tmp_path)
    assert of_study.split()[1:3] == [CALLER, "aaaa"]
    assert of_study.endswith("1 settled since, 1 open (1 failed, 1 truncated)")
    assert never.endswith("never received    0 settled since, 1 open (1 unknown)")
    assert "1.1" not in of_study, "an identifier is listed on request only"


def test_instances_are_listed_on_request(book: Book, store: CommitmentStore, tmp_path: Path) -> None:
    (tmp_path.parent / "settings").mkdir(exist_ok=True)
    refuse(book, store, "failed", "failed")
    store.note_told([Told("k1", "released", "released", None, (2, 1))])
    lines = listed(tmp_path, "--instances")
    assert [line.split() for line in lines if line.startswith("  ")] == [
        ["settled", "1.1"],
        ["failed", "1.0"],
        ["unknown", "1.9"],
    ]


def test_json_has_the_same_as_the_lines(book: Book, store: CommitmentStore, tmp_path: Path) -> None:
    (tmp_path.parent / "settings").mkdir(exist_ok=True)
    refuse(book, store, "imported", "failed", "failed")
    store.note_told([Told("k1", "released", "released", None, (2, 1))])
    of_study, never = json.loads("\n".join(listed(tmp_path, "--json")))
    assert (of_study["ae_title"], of_study["study_key"], of_study["settled"]) == (CALLER, "aaaa", 1)
    assert (of_study["open"], of_study["reasons"], of_study["delivered"]) == ({"failed": 1}, {"truncated": 1}, True)
    assert (never["study_key"], never["open"]) == (None, {"unknown": 1})
    assert "1.1" not in json.dumps(of_study), "an identifier is listed on request only"
    assert json.loads("\n".join(listed(tmp_path, "--json", "--instances")))[0]["open_instances"] == {"1.2": "failed"}


def test_nothing_is_listed_where_all_was_committed(book: Book, store: CommitmentStore, tmp_path: Path) -> None:
    (tmp_path.parent / "settings").mkdir(exist_ok=True)
    book.add([received(0)])
    store.add(CALLER, Request("1.9", (Reference(CT, "1.0"),)))
    store.decide(1, [None])
    assert listed(tmp_path, "--json") == ["[]"]
    assert listed(tmp_path) == ["No commitment request has been answered with a failure."]


def test_a_result_that_was_not_delivered_is_named(book: Book, store: CommitmentStore, tmp_path: Path) -> None:
    (tmp_path.parent / "settings").mkdir(exist_ok=True)
    refuse(book, store, "failed")
    store.give_up(1)
    assert all(line.endswith("(result not delivered)") for line in listed(tmp_path))
