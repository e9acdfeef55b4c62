"""AWS HealthLake operators: the FHIR interface of a data store."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.amazon.aws.operators.base_aws import AwsBaseOperator
from airflow.providers.amazon.aws.utils.mixins import aws_template_fields

from healthaws.exceptions import ResourceInvalidError, fail_without_retry
from healthaws.fhir_json import load
from healthaws.hooks.healthlake_fhir import HealthLakeFhirHook
from healthaws.outcomes import issues_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context


class HealthLakeValidateResourceOperator(AwsBaseOperator[HealthLakeFhirHook]):
    """
    Validate a resource with a HealthLake data store without storing it; fail if it does not conform.

    Returns ``{"valid": True, "issues": {"warning": 1, ...}}``, with the number of issues of each severity.

    Parameters
    ----------
    datastore_id : str
        The data store that has the profiles. (templated)
    resource : dict or str
        The resource, or its JSON. It may hold templates and XComs, which are rendered when the task runs. It is not in
        ``template_fields``, because Airflow stores those in its database and shows them.
    profile : str, optional
        The canonical URL of a profile. (default: those in ``meta.profile``, else the base definition) (templated)
    mode : {"create", "update"}, optional
        The interaction to validate for. (templated)
    **kwargs
        Of the amazon provider's operators (``aws_conn_id``, ``region_name``, ``verify``, ``botocore_config``) and of
        :class:`airflow.sdk.BaseOperator`.
    """

    aws_hook_class = HealthLakeFhirHook
    template_fields: Sequence[str] = aws_template_fields("datastore_id", "profile", "mode")
    ui_color = "#66c3ff"

    def __init__(
        self,
        *,
        datastore_id: str,
        resource: dict[str, Any] | str,
        profile: str | None = None,
        mode: Literal["create", "update"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.datastore_id = datastore_id
        self.resource = resource
        self.profile = profile
        self.mode = mode

    @property
    def _hook_parameters(self) -> dict[str, Any]:
        return {**super()._hook_parameters, "datastore_id": self.datastore_id}

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Validate the resource.

        Parameters
        ----------
        context : Context
            The task's context.

        Returns
        -------
        dict
            ``valid`` and the number of ``issues`` by severity.

        Raises
        ------
        ResourceInvalidError
            If the resource does not conform.
        AirflowFailException
            If the service does not know the resource type or the profile.
        """
        resource = self._render_resource(context)
        with fail_without_retry():
            outcome = self.hook.validate(resource, self.profile, self.mode)
        issues = issues_of(outcome)
        errors = dict.fromkeys(str(issue) for issue in issues if issue.is_error)
        if errors or not issues:
            findings = "; ".join(errors) or "the service gave no verdict"
            raise ResourceInvalidError(f"The {resource['resourceType']} does not conform: {findings}.")
        return {"valid": True, "issues": dict(Counter(issue.severity for issue in issues))}

    def _render_resource(self, context: Context) -> dict[str, Any]:
        resource = self.render_template(self.resource, context, self.get_template_env())
        if isinstance(resource, str):
            try:
                resource = load(resource)
            except ValueError:
                raise ResourceInvalidError("The resource is not JSON.") from None
        if not isinstance(resource, dict) or not isinstance(resource.get("resourceType"), str):
            raise ResourceInvalidError("The resource names no resourceType.")
        return resource
