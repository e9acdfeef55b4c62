"""Two pipelines that publish the same study, stage by stage beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chain import HEALTHLAKE, Chain, pipeline
from tests.dicom_files import ct, study_uid

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

STAGES = ("receive", "buffer", "parse", "validate", "normalize", "stage", "import", "audit")
STAGES += ("fhir.normalize", "fhir.import", "fhir.audit", "route")


def test_a_study_in_flight_until_the_publication_was_over_is_published_by_the_next_run(place: Place) -> None:
    lines = [
        pipeline(name, source={"uri": f"s3://archive/{name}/"}, healthlake=HEALTHLAKE) for name in ("main", "mirror")
    ]
    for line in lines:
        place.put({f"{n}.dcm": ct(1, 1, n) for n in (1, 2)}, f"{line.name}/")
    main, mirror = (Chain(place, line, run_id="manual__first") for line in lines)
    for stage in STAGES:
        main.stage(stage)
        mirror.stage(stage)
    assert set(main.report["reasons"]) == {"study_in_flight"}
    assert set(mirror.report["reasons"]) == {"instance_claimed"}
    for line in reversed(lines):
        Chain(place, line, run_id="manual__second").run()
    assert [contract["StudyInstanceUID"] for contract in place.contracts()] == [study_uid(1)]
