"""A million resources wait, in PostgreSQL; a thousand Patients come, and a run takes in what waited for them."""

from __future__ import annotations

import resource
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from airlock.ledger import upgrade
from airlock.ledger.database import engine_for, parse_url
from tests.chain import Chain, clinical_pipeline
from tests.clinical_files import ndjson, observation, patient
from tests.servers.postgres import postgres_server, postgres_url

if TYPE_CHECKING:
    from tests.chain import Place

__all__ = ["postgres_server", "postgres_url"]

pytestmark = [pytest.mark.proof, pytest.mark.timeout(1800)]

PARKED, COME = 1_000_000, 1_000
# Like the first of those that a run has parked, but each waits for a Patient of its own.
_MORE = """
INSERT INTO parked (arrival_id, line, waits_for_type, waits_for_id, pipeline, datastore_id, resource_type, resource_id,
    content_digest, clock, patient, site, run_key, body_uri, parked_at, parked_until)
SELECT arrival_id, n + 1, waits_for_type, 'p' || n, pipeline, datastore_id, resource_type, 'o' || n,
    content_digest, clock, 'Patient/p' || n, site, run_key, body_uri || n, parked_at, parked_until
FROM parked CROSS JOIN generate_series(:first, :last) AS n WHERE resource_id = 'o0'
"""


def query(url: str, statement: str, **values: Any) -> Any:
    engine = engine_for(parse_url(url))
    try:
        with engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return result.scalar_one() if result.returns_rows else result.rowcount
    finally:
        engine.dispose()


def night(place: Place, number: int, *resources: Any) -> Chain:
    if resources:
        place.put({f"{number}.ndjson": ndjson(*resources)})
    chain = Chain(place, clinical_pipeline(audit={"brake": {"waiting": 1}}), run_id=f"manual__{number}")
    assert chain.run()["balanced"]
    return chain


def test_a_run_takes_in_exactly_those_whose_patients_came(
    place: Place, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(postgres_url)
    monkeypatch.setenv("AIRLOCK_LEDGER_URL", postgres_url)
    place = replace(place, ledger_url=postgres_url)
    night(place, 1, *(observation(f"o{number}", f"p{number}") for number in range(COME)))
    assert query(postgres_url, _MORE, first=COME, last=PARKED - 1) == PARKED - COME
    query(postgres_url, "ANALYZE")
    assert night(place, 2, *(patient(f"p{number}") for number in range(COME))).report["dispositions"] == {
        "released": COME
    }

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    began = perf_counter()
    third = night(place, 3)
    seconds = perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"the run took {seconds:.1f} s; the process had {before} MiB at most before it, {after} after")  # noqa: T201
    assert third.report["dispositions"] == {"released": COME}
    names = [str(number) for number in range(COME)]
    assert place.routed() == {f"Patient/p{name}" for name in names} | {f"Observation/o{name}" for name in names}
    assert query(postgres_url, "SELECT count(*) FROM parked") == PARKED - COME
    assert query(postgres_url, "SELECT count(*) FROM parked WHERE due IS NOT NULL OR taken_as IS NOT NULL") == 0
    assert len(place.jobs()) == 2
