from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from healthaws.exceptions import ResourceInvalidError
from healthaws.operators.healthlake_fhir import HealthLakeValidateResourceOperator
from tests.unit.healthaws.fhir_service import issue, outcome
from tests.unit.healthaws.healthlake import STORE

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context


class TestValidateResource:
    PATIENT = {"resourceType": "Patient", "birthDate": "{{ ds }}"}  # noqa: RUF012 - never changed

    @pytest.fixture
    def verdict(self, context: Context, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
        """Run the operator against a data store that finds these issues; tells what the data store was sent."""

        def run(*issues: dict[str, Any], **more: Any) -> Any:
            given = {"task_id": "validate", "datastore_id": STORE, "resource": self.PATIENT, "aws_conn_id": None}
            task = HealthLakeValidateResourceOperator(**{**given, **more})
            assert task.hook.datastore_id == STORE
            self.sent: list[Any] = []

            def validate(*asked: Any) -> dict[str, Any]:
                self.sent += asked
                return outcome(*issues)

            monkeypatch.setattr(task.hook, "validate", validate)
            return task.execute({**context, "ds": "2026-11-01"})

        return run

    def test_valid_resource_returns_the_issues_counted(self, verdict: Callable[..., Any]) -> None:
        found = [issue("informational", "information"), issue("code-invalid", "warning"), issue("value", "warning")]
        assert verdict(*found) == {"valid": True, "issues": {"information": 1, "warning": 2}}

    def test_invalid_resource_fails_with_codes_and_elements_only(self, verdict: Callable[..., Any]) -> None:
        bad = issue("value", expression=["Patient.birthDate"], diagnostics="'Müller' is no date")
        with pytest.raises(ResourceInvalidError) as caught:
            verdict(bad, bad, issue("required", "fatal", location=["Patient.name"]), issue("x", "warning"))
        assert str(caught.value) == (
            "The Patient does not conform: value at Patient.birthDate; required at Patient.name."
        )
        assert isinstance(caught.value, AirflowFailException)

    def test_answer_without_a_verdict_is_none(self, verdict: Callable[..., Any]) -> None:
        with pytest.raises(ResourceInvalidError, match="no verdict"):
            verdict()

    @pytest.mark.parametrize("resource", [PATIENT, json.dumps(PATIENT)])
    def test_resource_is_rendered_when_the_task_runs(self, resource: Any, verdict: Callable[..., Any]) -> None:
        verdict(issue("informational", "information"), resource=resource, profile="http://p", mode="create")
        assert self.sent == [{"resourceType": "Patient", "birthDate": "2026-11-01"}, "http://p", "create"]

    def test_decimals_of_a_resource_given_as_text_keep_their_digits(self, verdict: Callable[..., Any]) -> None:
        text = '{"resourceType": "Observation", "valueQuantity": {"value": 1.10}}'
        verdict(issue("informational", "information"), resource=text)
        assert str(self.sent[0]["valueQuantity"]["value"]) == "1.10"

    def test_and_is_not_kept_by_airflow(self) -> None:
        assert "resource" not in HealthLakeValidateResourceOperator.template_fields

    @pytest.mark.parametrize(
        ("resource", "told"),
        [("Müller", "is not JSON"), ("[]", "names no resourceType"), ({"name": "Müller"}, "names no resourceType")],
    )
    def test_what_is_no_resource(self, resource: Any, told: str, verdict: Callable[..., Any]) -> None:
        with pytest.raises(ResourceInvalidError, match=told) as caught:
            verdict(resource=resource)
        assert "Müller" not in str(caught.value)
