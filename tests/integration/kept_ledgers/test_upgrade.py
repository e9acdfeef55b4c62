"""A ledger that an older Airlock left in mid-work is upgraded, and its runs are finished.

``AIRLOCK_KEEP_WORLD=2026-11-29`` keeps a world of that name, made by the code at hand, beside the older ones.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airlock.ledger import upgrade
from tests.chain import Chain, release
from tests.integration.kept_ledgers.runs import connect_hospital, kept_pipelines, stopped_runs
from tests.integration.kept_ledgers.worlds import keep_world, restore_world
from tests.servers.webhook import webhook_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chain import Place
    from tests.servers.webhook import Endpoint

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent
WORLDS = sorted(FOLDER.glob("*.zip"))


@pytest.fixture
def database(request: pytest.FixtureRequest, place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Place:
    """The servers, with an empty database of the kind that the test's parameter names."""
    backend = request.param
    url = request.getfixturevalue("postgres_url") if backend == "postgres" else f"sqlite:///{tmp_path}/kept.db"
    monkeypatch.setenv("AIRLOCK_LEDGER_URL", url)
    return replace(place, ledger_url=url)


@pytest.fixture
def hospital(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """The webhook's endpoint."""
    with webhook_endpoint() as endpoint:
        connect_hospital(monkeypatch, endpoint.url)
        yield endpoint


@pytest.mark.skipif("AIRLOCK_KEEP_WORLD" not in os.environ, reason="keeps a world, see above")
@pytest.mark.parametrize("database", ["sqlite", "postgres"], indirect=True)
def test_keep_a_world(database: Place, hospital: Endpoint) -> None:
    upgrade(database.ledger_url)
    hospital.die()
    kind = database.ledger_url.partition("+")[0].partition(":")[0]
    keep_world(FOLDER / f"{os.environ['AIRLOCK_KEEP_WORLD']}-{kind}.zip", database, stopped_runs(database))


@pytest.mark.parametrize(
    ("database", "world"),
    [pytest.param("postgres" if "postgres" in path.name else "sqlite", path, id=path.stem) for path in WORLDS],
    indirect=["database"],
)
def test_a_kept_ledger_is_upgraded_and_its_runs_end_as_they_would_have(
    database: Place, world: Path, hospital: Endpoint
) -> None:
    runs = restore_world(world, database, kept_pipelines())
    upgrade(database.ledger_url)

    # The file that is not DICOM has a name like those beside it, which are of one study: it holds the study.
    assert _finished(runs["claimed_images"], "normalize") == {"held": 3, "quarantined": 1}
    assert runs["claimed_images"].report["reasons"]["sibling_unread"]["arrivals"] == 3
    assert _finished(runs["claimed_records"], "normalize") == {"released": 6}
    assert _finished(runs["imported"], "audit") == {"released": 2}

    reviewed = runs["reviewed"]
    assert reviewed.report["dispositions"] == {"held": 1, "quarantined": 1}
    assert _finished(reviewed, "audit") == {
        "held": 1,
        "quarantined": 1,
    }  # a version that asked in the run has audited it
    assert release(reviewed, "the lost file is a copy of the first")["dispositions"] == {
        "released": 1,
        "quarantined": 1,
    }

    runs["outbox"].stage("route")
    assert len(hospital.requests) == 2
    runs["outbox"].stage("route")
    assert len(hospital.requests) == 2

    for name in ("claimed_images", "claimed_records", "imported"):
        later = Chain(database, runs[name].pipeline, run_id="manual__later")
        assert later.run()["arrivals"] == 0


def _finished(chain: Chain, first: str) -> dict[str, int]:
    report: dict[str, Any] = chain.onward(first)
    assert report["balanced"]
    return dict(report["dispositions"])
