from __future__ import annotations

import re

from healthaws.jobs import ImportJob


def test_token_is_a_function_of_work_and_generation() -> None:
    job = ImportJob("work", 0)
    assert job.client_token == ImportJob("work", 0, "known by now").client_token
    assert len({job.client_token, job.next().client_token, ImportJob("other", 0).client_token}) == 3


def test_token_is_legal_for_both_health_services() -> None:
    assert re.fullmatch("[0-9a-f]{64}", ImportJob("dag|run: + |é", 12).client_token)


def test_next_generation_has_no_job_yet() -> None:
    assert ImportJob("work", 4, "failed").next() == ImportJob("work", 5, None)
