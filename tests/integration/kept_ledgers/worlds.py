"""A ledger in mid-work and what its runs need to go on: made by the code of a day, kept, and given back later.

A world is a zip: ``ledger.sql`` as the database dumps it, ``runs.json`` with what Airflow knows of each run, and
``s3/<bucket>/<key>`` with the objects. The emulator is not kept, so no run of it waits for an import job.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import zipfile
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg2  # type: ignore[import-untyped]
from sqlalchemy import make_url

from tests.chain import BUCKETS, Chain, StateStore
from tests.servers.postgres import USER, shipped_programs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from airlock.pipelines import Pipeline
    from tests.chain import Place


def keep_world(file: Path, place: Place, chains: Mapping[str, Chain]) -> None:
    """Write the ledger, the objects and the runs' state of Airflow to a zip."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as world:
        world.writestr("ledger.sql", _dump(place.ledger_url))
        world.writestr("runs.json", json.dumps({name: _state(chain) for name, chain in chains.items()}, indent=1))
        for bucket in BUCKETS:
            for key in place.keys(bucket):
                body = place.s3().get_object(Bucket=bucket, Key=key)["Body"].read()
                world.writestr(f"s3/{bucket}/{key}", body)


def restore_world(file: Path, place: Place, pipelines: Mapping[str, Pipeline]) -> dict[str, Chain]:
    """Give a kept world to empty servers and an empty database; return its runs."""
    with zipfile.ZipFile(file) as world:
        _load(place.ledger_url, world.read("ledger.sql").decode())
        for name in world.namelist():
            if name.startswith("s3/"):
                bucket, _, key = name.removeprefix("s3/").partition("/")
                place.s3().put_object(Bucket=bucket, Key=key, Body=world.read(name))
        states = json.loads(world.read("runs.json"))
    return {name: _chain(place, pipelines[name], state) for name, state in states.items()}


def _state(chain: Chain) -> dict[str, Any]:
    return {
        "run_id": chain.run_id,
        "states": chain.states,
        "xcom": [[*where, value] for where, value in chain.xcom.items()],
        "stores": [[*where, dict(store)] for where, store in chain.stores.items()],
    }


def _chain(place: Place, pipeline: Pipeline, state: dict[str, Any]) -> Chain:
    chain = Chain(place, pipeline, run_id=state["run_id"], states=state["states"])
    chain.xcom.update({(task, index): value for task, index, value in state["xcom"]})
    chain.stores.update({(task, index): StateStore(store) for task, index, store in state["stores"]})
    return chain


def _dump(url: str) -> str:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        assert parsed.database
        with closing(sqlite3.connect(parsed.database)) as connection:
            return "\n".join(connection.iterdump())
    programs = shipped_programs()
    assert programs
    command = [programs / "pg_dump", "-h", parsed.query["host"], "-U", USER, "--inserts", "--no-owner", parsed.database]
    dumped = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout
    # psql's own commands and the settings of one server's version are not SQL that another one knows.
    return "".join(line for line in dumped.splitlines(keepends=True) if not line.startswith(("\\", "SET ")))


def _load(url: str, dump: str) -> None:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        assert parsed.database
        with closing(sqlite3.connect(parsed.database)) as connection:
            connection.executescript(dump)
        return
    connection = psycopg2.connect(host=parsed.query["host"], user=USER, dbname=parsed.database)
    with closing(connection), connection, connection.cursor() as cursor:
        cursor.execute(dump)
