"""AWS HealthImaging console links."""

from __future__ import annotations

from airflow.providers.amazon.aws.links.base_aws import BASE_AWS_CONSOLE_LINK, BaseAwsLink


class HealthImagingDicomImportJobLink(BaseAwsLink):
    """
    Link to the data store of an import job in the AWS console, where the job stands in the list of imports.

    AWS documents the console's page of a data store, but no address of a single job.
    """

    name = "HealthImaging Data Store"
    key = "healthimaging_dicom_import_job"
    format_str = BASE_AWS_CONSOLE_LINK + "/medical-imaging/home?region={region_name}#/dataStores/{datastore_id}"
