"""A redrive by the REST API's conf, on the real scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airlock.run import run_key
from tests.dicom_files import ct
from tests.e2e.conftest import until

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

pytestmark = [pytest.mark.proof, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("first_run")]


def test_a_fixed_file_by_rest(machine: Machine) -> None:
    whole = {f"{number}.dcm": ct(700, 1, number) for number in (1, 2)}
    machine.put(whole | {"2.dcm": whole["2.dcm"][:-50]}, "kills/redrive/")
    with machine.api() as api:
        until("the DAG is there", lambda: api.dag("kills"))
        api.unpause("kills")

        def run(conf: dict[str, Any]) -> str:
            started = api.trigger("kills", conf)
            until("the run ends", lambda: api.run_state("kills", started) in {"success", "failed"}, 300)
            return started

        before = run({"prefix": "kills/redrive/"})
        assert machine.report("kills", run_key("kills", before))["dispositions"] == {"held": 1, "quarantined": 1}
        machine.put(whole, "kills/redrive/")
        after = run({"redrive_run": before, "redrive_why": "the whole file is there"})
    report = machine.report("kills", run_key("kills", after))
    assert report["dispositions"] == {"released": 2}
    assert report["redrive"]["asked_by"] != "unknown"
