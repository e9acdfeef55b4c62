"""AWS HealthLake console links."""

from __future__ import annotations

from airflow.providers.amazon.aws.links.base_aws import BASE_AWS_CONSOLE_LINK, BaseAwsLink


class HealthLakeConsoleLink(BaseAwsLink):
    """
    Link to HealthLake in the AWS console.

    AWS documents only the address of the console's front page, not of a data store or a job.
    """

    name = "HealthLake Console"
    key = "healthlake_console"
    format_str = BASE_AWS_CONSOLE_LINK + "/healthlake/home?region={region_name}"
