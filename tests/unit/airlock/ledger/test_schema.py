from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, Table, insert, inspect, literal, select, text
from sqlalchemy.exc import IntegrityError

import airlock.ledger.migrations
from airlock.ledger import Ledger, LedgerError, upgrade
from airlock.ledger.__main__ import main
from airlock.ledger.columns import UtcDateTime, metadata
from airlock.ledger.database import engine_for, parse_url, writing
from airlock.ledger.schema import NEXT, REVISION, VERSION_TABLE, versions_for
from airlock.records import CONTRACTS
from tests.unit.airlock.ledger.samples import NIGHTLY, SEEN_AT, STORE, arrivals, begin, uids

if TYPE_CHECKING:
    from collections.abc import Iterator


def execute(url: str, statement: str) -> None:
    engine = engine_for(parse_url(url))
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def upgrade_to(url: str, revision: str) -> None:
    """Make a ledger as an older Airlock did."""
    engine = engine_for(parse_url(url))
    with writing(engine, "schema") as connection:
        config = Config()
        config.set_main_option("script_location", "airlock.ledger:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


# What revision 0002 held of two studies: s1 was sent; s2 is held, overridden, and waits to be sent.
FILLED_0002: list[tuple[str, dict[str, Any]]] = [
    ("runs", {"run_key": "a", "pipeline": NIGHTLY, "run_id": "one", "started_at": SEEN_AT, "state": "audited"}),
    ("gates", {"study_instance_uid": "s1", "study_key": "k1", "gate": "release", "reason": None}),
    ("gates", {"study_instance_uid": "s2", "study_key": "k2", "gate": "hold", "reason": "rejected"}),
    ("overrides", {"study_instance_uid": "s2", "held_reason": "rejected"}),
    ("contracts", {"study_instance_uid": "s1", "study_key": "k1", "revision": 3, "content_digest": "d1"}),
    ("outbox", {"study_key": "k1", "revision": 3, "content_digest": "d1", "state": "sent", "attempts": 1}),
    ("outbox", {"study_key": "k2", "revision": 1, "content_digest": "d2", "state": "pending", "attempts": 2}),
]
COMMON_0002: dict[str, dict[str, Any]] = {
    "runs": {},
    "gates": {"datastore_id": STORE, "run_key": "a", "decided_at": SEEN_AT},
    "overrides": {"datastore_id": STORE, "run_key": "a", "overridden_by": "ada", "override_reason": "seen"}
    | {"overridden_at": SEEN_AT},
    "contracts": {"datastore_id": STORE, "run_key": "a", "contract": "{}"},
    "outbox": {"pipeline": NIGHTLY, "destination": "s3://to/", "run_key": "a", "payload_uri": "s3://work/payload"}
    | {"next_attempt_at": SEEN_AT, "created_at": SEEN_AT},
}


@pytest.fixture
def filled_0002(empty_url: str) -> str:
    """The URL of a ledger that was filled before gates had subjects."""
    upgrade_to(empty_url, "0002")
    engine = engine_for(parse_url(empty_url))
    with engine.begin() as connection:
        for name, values in FILLED_0002:
            connection.execute(insert(Table(name, MetaData(), autoload_with=connection)), COMMON_0002[name] | values)
    engine.dispose()
    return empty_url


def test_waits_for_whoever_is_in_the_file_when_it_changes_how_sqlite_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    reader = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    reader.execute("CREATE TABLE other (n)")
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM other").fetchall()
    waited = []

    def leave_the_file(seconds: float) -> None:
        waited.append(seconds)
        reader.close()

    monkeypatch.setattr("airlock.ledger.schema.sleep", leave_the_file)
    monkeypatch.setattr("airlock.ledger.database.BUSY_TIMEOUT_MS", 10)  # SQLite's own wait for a reader to leave
    upgrade(url)
    Ledger.open(url).dispose()
    assert len(waited) == 1


def test_studies_of_an_older_ledger_become_subjects_and_nothing_is_lost(filled_0002: str) -> None:
    upgrade(filled_0002)
    with Ledger.open(filled_0002) as ledger:
        gates = ledger.gates_of(STORE, "a")
        assert gates.select("subject", "subject_key", "gate", "reason", "released", "decided_at").rows() == [
            ("s1", "k1", "release", None, True, SEEN_AT),
            ("s2", "k2", "hold", "rejected", True, SEEN_AT),
        ]
        contracts = ledger.contracts(STORE, uids("s1", "s2"))
        assert contracts.equals(pl.DataFrame([("s1", "k1", 3, "d1", "{}")], schema=CONTRACTS, orient="row"))
        (waiting,) = ledger.lease_due(NIGHTLY, "s3://to/", 10)
        assert (waiting.subject_key, waiting.revision, waiting.attempts) == ("k2", 1, 2)


def test_an_upgraded_outbox_has_a_revision_once_and_a_content_that_returns(filled_0002: str) -> None:
    upgrade(filled_0002)
    columns = "SELECT pipeline, destination, subject_key, run_key"
    rest = "payload_uri, 'pending', 0, next_attempt_at, created_at, queued_at FROM outbox WHERE subject_key = 'k1'"
    into = (
        "INSERT INTO outbox (pipeline, destination, subject_key, run_key, revision, content_digest, payload_uri, state,"
        " attempts, next_attempt_at, created_at, queued_at)"
    )
    for statement in (
        f"{into} {columns}, revision, 'd9', {rest}",  # the same revision for another content
        "UPDATE outbox SET state = 'lost'",
        "UPDATE outbox SET run_key = 'nobody'",
    ):
        with pytest.raises(IntegrityError):
            execute(filled_0002, statement)
    execute(filled_0002, f"{into} {columns}, 4, content_digest, {rest}")


@pytest.fixture
def own_url(empty_url: str) -> str:
    """The URL of a ledger that the test may spoil."""
    upgrade(empty_url)
    return empty_url


def test_an_upgrade_makes_a_ledger_and_a_second_one_changes_nothing(empty_url: str) -> None:
    upgrade(empty_url)
    with Ledger.open(empty_url) as ledger:
        begin(ledger, "a")
    upgrade(empty_url)
    with Ledger.open(empty_url) as ledger:
        assert ledger.run("a") is not None


def _is_compared(_: object, __: str | None, kind: str, *___: object) -> bool:
    """Leave out checks, which only Alembic 1.19 compares: the first migration names them as ck_gates_ck_gates_..."""
    return kind != "check_constraint"


def test_the_migrations_make_exactly_the_tables_that_the_code_expects(own_url: str) -> None:
    engine = engine_for(parse_url(own_url))
    with engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True, "include_object": _is_compared}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
    engine.dispose()


def read_index_of_holds(url: str) -> tuple[list[str | None], bool]:
    """Return the columns of the index, and whether it is of holds alone."""
    engine = engine_for(parse_url(url))
    indexes = {index["name"]: index for index in inspect(engine).get_indexes("gates")}
    engine.dispose()
    made = indexes["ix_gates_held"]
    conditions = [str(value) for name, value in made["dialect_options"].items() if name.endswith("_where")]
    return made["column_names"], ["hold" in condition for condition in conditions] == [True]


def test_a_new_ledger_has_the_index_of_holds(own_url: str) -> None:
    assert read_index_of_holds(own_url) == (["run_key"], True)


def test_a_ledger_that_has_gates_gets_the_index_of_holds_after_the_steps(filled_0002: str) -> None:
    upgrade(filled_0002)
    assert read_index_of_holds(filled_0002) == (["run_key"], True)


def test_a_claim_leaves_room_in_its_page_for_the_import_that_it_becomes(postgres_url: str) -> None:
    upgrade(postgres_url)
    engine = engine_for(parse_url(postgres_url))
    with engine.connect() as connection:
        options = connection.scalar(text("SELECT reloptions FROM pg_class WHERE oid = 'instances'::regclass"))
    engine.dispose()
    assert "fillfactor=45" in options


def test_large_tables_are_vacuumed_after_a_hundredth_of_them_has_changed(postgres_url: str) -> None:
    upgrade(postgres_url)
    engine = engine_for(parse_url(postgres_url))
    with engine.connect() as connection:
        options = connection.scalar(text("SELECT reloptions FROM pg_class WHERE oid = 'arrivals'::regclass"))
    engine.dispose()
    assert set(options) == {
        "autovacuum_vacuum_scale_factor=0.01",
        "autovacuum_vacuum_insert_scale_factor=0.02",
        "autovacuum_analyze_scale_factor=0.01",
    }


def test_the_revision_that_a_ledger_is_opened_at_is_the_newest_step() -> None:
    folder = Path(airlock.ledger.migrations.__file__).parent
    assert ScriptDirectory(str(folder)).get_heads() == [REVISION]


def test_a_missing_ledger_is_refused_with_the_command_that_makes_it(empty_url: str) -> None:
    with pytest.raises(
        LedgerError, match=r"ledger.*: run, with AIRLOCK_LEDGER_URL set .*: python -m airlock.ledger upgrade$"
    ):
        Ledger.open(empty_url)
    if empty_url.startswith("sqlite"):
        assert not Path(empty_url.removeprefix("sqlite:///")).exists()


def test_a_database_of_something_else_is_no_ledger(empty_url: str) -> None:
    execute(empty_url, "CREATE TABLE dag_run (id INTEGER)")
    with pytest.raises(LedgerError, match="holds no ledger yet: run"):
        Ledger.open(empty_url)


def test_an_older_ledger_is_refused_with_the_command_that_upgrades_it(own_url: str) -> None:
    execute(own_url, f"UPDATE {VERSION_TABLE} SET version_num = '0000'")
    with pytest.raises(LedgerError, match=f"has schema 0000, this Airlock needs {REVISION}: run"):
        Ledger.open(own_url)


def test_a_ledger_of_the_next_version_is_used_as_it_is(own_url: str) -> None:
    """Workers of two neighbouring versions share a ledger while they are replaced."""
    execute(own_url, f"UPDATE {VERSION_TABLE} SET version_num = '{NEXT}'")
    execute(own_url, "CREATE TABLE of_the_next_version (n INTEGER)")
    upgrade(own_url)
    with Ledger.open(own_url) as ledger:
        begin(ledger, "a")
        assert ledger.pipelines() == {NIGHTLY}


@pytest.mark.parametrize("found", ["9999", "main"])
def test_a_ledger_of_an_unknown_schema_is_left_alone(own_url: str, found: str) -> None:
    execute(own_url, f"UPDATE {VERSION_TABLE} SET version_num = '{found}'")
    told = (
        f"has schema {found}, which this Airlock does not know.*This Airlock works with {REVISION} and {NEXT}: install"
    )
    for use in (upgrade, Ledger.open):
        with pytest.raises(LedgerError, match=told):
            use(own_url)


def test_a_ledger_says_which_versions_may_run_on_it() -> None:
    assert versions_for("0014") == ["0013", "0014"]
    assert versions_for("0012") == ["0012"]  # earlier ones work on their own schema only


def test_an_upgrade_waits_for_nobody_who_reads_or_writes(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade_to(postgres_url, "0012")
    monkeypatch.setattr("airlock.ledger.schema._LOCK_TRIES", 1)
    engine = engine_for(parse_url(postgres_url))
    with engine.begin() as task:
        run = "('a', 'nightly', 'one', now(), 'open')"
        task.execute(text(f"INSERT INTO runs (run_key, pipeline, run_id, started_at, state) VALUES {run}"))
        task.execute(text("DELETE FROM arrivals"))
        upgrade(postgres_url)
    engine.dispose()
    with Ledger.open(postgres_url) as ledger:
        assert ledger.run("a") is not None


def test_an_upgrade_tries_again_while_a_task_holds_a_table(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade_to(postgres_url, "0012")
    monkeypatch.setattr("airlock.ledger.schema._LOCK_SECONDS", 0.05)
    engine = engine_for(parse_url(postgres_url))
    told: list[str] = []
    with engine.connect() as task:
        task.execute(text("LOCK TABLE arrivals IN ACCESS EXCLUSIVE MODE"))

        def end_task(sentence: str) -> None:
            told.append(sentence)
            task.rollback()

        upgrade(postgres_url, end_task)
    engine.dispose()
    assert told == ["tasks use a table that is to be changed: trying again"]
    Ledger.open(postgres_url).dispose()


def test_a_failed_upgrade_leaves_nothing_half_done(empty_url: str) -> None:
    execute(empty_url, "CREATE TABLE outbox (id INTEGER)")  # in the way of the last step
    with pytest.raises(LedgerError):
        upgrade(empty_url)
    execute(empty_url, "DROP TABLE outbox")
    upgrade(empty_url)
    Ledger.open(empty_url).dispose()


def test_the_command_upgrades_and_checks_the_ledger_of_the_environment(
    empty_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRLOCK_LEDGER_URL", empty_url)
    assert main(["check"]) == 1
    assert "python -m airlock.ledger upgrade" in capsys.readouterr().err
    assert main(["upgrade"]) == 0
    assert main(["check"]) == 0
    assert capsys.readouterr().out == f"the ledger is at schema {REVISION}\n" * 2


def test_the_command_names_the_variable_that_is_not_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRLOCK_LEDGER_URL", raising=False)
    assert main(["check"]) == 1
    assert "AIRLOCK_LEDGER_URL is not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:secret@host/db", "postgresql://u@host/db?password=secret", "postgresql:///?sslpassword=secret"],
)
def test_an_address_with_a_password_is_refused_on_the_command_line(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--url", url]) == 1
    refusal = capsys.readouterr().err
    assert "--url holds a password" in refusal
    assert "set AIRLOCK_LEDGER_URL" in refusal
    assert "secret" not in refusal


def test_a_password_in_the_query_of_an_address_is_not_shown() -> None:
    with pytest.raises(LedgerError, match=r"the ledger at .*127\.0\.0\.1:1/db failed") as refusal:
        Ledger.open("postgresql://u@127.0.0.1:1/db?password=secret")
    assert "secret" not in str(refusal.value)


def test_the_command_runs_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "airlock.ledger", "upgrade", "--url", f"sqlite:///{tmp_path}/new/folder/ledger.db"]
    assert subprocess.run(command, check=False).returncode == 0


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


@pytest.fixture
def anybody() -> Iterator[None]:
    """A umask that hides nothing."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("anybody")
def test_a_sqlite_ledger_is_for_its_owner_alone_and_so_is_what_sqlite_puts_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    url = f"sqlite:///{folder}/ledger.db"
    upgrade(url)
    assert mode(folder) == 0o700
    engine = engine_for(parse_url(url))
    with writing(engine, "schema") as connection:
        connection.execute(text("CREATE TABLE other (n)"))
        modes = {file.name: mode(file) for file in folder.iterdir()}
    engine.dispose()
    assert modes == dict.fromkeys(("ledger.db", "ledger.db-wal", "ledger.db-shm"), 0o600)
    with sqlite3.connect(folder / "ledger.db", isolation_level=None) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE another (n)")
        assert mode(folder / "ledger.db-journal") == 0o600
    connection.close()


def test_an_upgrade_leaves_the_mode_of_a_ledger_that_is_there(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    file.touch()
    file.chmod(0o660)
    upgrade(f"sqlite:///{file}")
    assert mode(file) == 0o660


def test_a_ledger_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match=r"cannot be created .*name a file in a folder that this user can write to"):
        upgrade(f"sqlite:///{tmp_path}/file/ledger.db")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nonsense", "not a database URL: write sqlite:"),
        ("mysql://u:secret@host/db", "cannot be kept in 'mysql': use sqlite:// or postgresql://"),
        ("sqlite://", "in memory is lost"),
        ("sqlite:///:memory:", "in memory is lost"),
        ("postgresql://u:a@secret@127.0.0.1:1/db", "write @, :, / and % of its password as %40"),
        ("postgresql://u:a@b:secret@127.0.0.1:1/db", "write @, :, / and % of its password as %40"),
        ("postgresql://u:a@b/secret@127.0.0.1:1/db", "write @, :, / and % of its password as %40"),
        ("postgresql://u:secret@127.0.0.1:1/db", "check that the database is up and reachable"),
    ],
)
def test_a_wrong_address_is_one_clear_sentence_without_the_password(url: str, sentence: str) -> None:
    with pytest.raises(LedgerError, match=sentence) as refusal:
        Ledger.open(url)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_usual_spelling_of_postgresql_uses_one_driver(scheme: str) -> None:
    assert parse_url(f"{scheme}://u@host/db").drivername == "postgresql+psycopg2"


def test_a_database_error_does_not_show_what_was_in_the_row(own_url: str) -> None:
    name = "DOE^" + "JANE"  # in two, for a traceback shows lines of code
    with Ledger.open(own_url) as ledger:
        begin(ledger, "a")
        execute(
            own_url, "CREATE UNIQUE INDEX one_each ON arrivals (bucket)"
        )  # PostgreSQL quotes the value that is there
        with pytest.raises(LedgerError, match=r"the ledger at .* failed \(.*check that the database is up") as refusal:
            ledger.claim("nightly", "a", arrivals("1", "2").with_columns(bucket=pl.lit(name)))
    assert name not in "".join(traceback.format_exception(refusal.value))


def test_a_value_that_the_database_cannot_take_is_not_shown(own_url: str) -> None:
    name = "DOE^" + "JANE"
    with (
        Ledger.open(own_url) as ledger,
        pytest.raises(LedgerError, match="failed") as refusal,
        ledger._reading() as open_,
    ):
        open_.execute(select(literal(name, UtcDateTime())))
    assert name not in "".join(traceback.format_exception(refusal.value))
