"""``plan``: what a plan reckons with. Rates and prices are settings, since quotas, pools and Regions differ."""

from __future__ import annotations

from datetime import date

from pydantic import Field

from airlock.pipelines.settings import Settings


class S3Prices(Settings):
    """What AWS bills for S3, from its page aws.amazon.com/s3/pricing."""

    region: str = Field("us-east-1", description="the Region of these prices; a plan shows it")
    as_of: date = Field(date(2026, 10, 7), description="when they were read; check AWS's price page, and write the day")
    currency: str = Field("USD", pattern=r"^[A-Z]{3}$", description="of all prices, an ISO 4217 code")
    put_per_1000: float = Field(0.005, ge=0, description="S3: PUT, COPY or LIST requests")
    get_per_1000: float = Field(0.0004, ge=0, description="S3: GET requests")
    s3_gib_month: float = Field(0.023, ge=0, description="S3: storage of the batches' copies, per GiB and month")


class Prices(S3Prices):
    """What AWS bills, from its pages aws.amazon.com/s3/pricing and aws.amazon.com/healthimaging/pricing."""

    api_per_1000: float = Field(0.005, ge=0, description="HealthImaging: API calls")
    import_gib: float = Field(0, ge=0, description="HealthImaging: import, per GiB (AWS: free)")
    frequent_gib_month: float = Field(
        0.105, ge=0, description="HealthImaging: Frequent Access tier, per GiB and month; the first 30 days"
    )
    archive_gib_month: float = Field(
        0.006, ge=0, description="HealthImaging: Archive Instant Access tier, per GiB and month; what rests for 30 days"
    )
    least_image_set_mib: float = Field(5, ge=0, description="HealthImaging: a smaller image set is billed as this")


class PlanSettings(Settings):
    """What a run with plan_only reckons with; docs/planning.md says how."""

    starts_per_second: float = Field(1, gt=0, description="StartDICOMImportJob requests (AWS's quota: 1)")
    concurrent_jobs: int = Field(
        20, ge=1, description="jobs at a time: the lower of the pool's slots and the data store's quota (AWS: 100)"
    )
    job_seconds: float = Field(60, ge=0, description="of each job, whatever it imports; assumed, AWS states none")
    job_mib_per_second: float = Field(20, gt=0, description="that one job imports; assumed, AWS states none")
    job_files_per_second: float = Field(50, gt=0, description="that one job imports; assumed, AWS states none")
    copy_seconds: float = Field(0.1, ge=0, description="of one server-side copy to a batch's prefix; assumed")
    stored_fraction: float = Field(
        1, gt=0, description="bytes stored of each byte imported; assumed, HealthImaging compresses without loss"
    )
    prices: Prices = Prices()


class HealthLakePrices(S3Prices):
    """What AWS bills; HealthLake's prices have no default, since they differ by tier and come after allowances."""

    import_gib: float | None = Field(None, ge=0, description="HealthLake: import, per GiB; without it not reckoned")
    query_per_1000: float | None = Field(
        None, ge=0, description="HealthLake: queries, that is reads, searches and $validate; without it not reckoned"
    )
    stored_gib_month: float | None = Field(
        None, ge=0, description="HealthLake: storage, per GiB and month; without it not reckoned"
    )


class ClinicalPlanSettings(Settings):
    """What a run with plan_only of a clinical pipeline reckons with; docs/planning.md says how."""

    starts_per_second: float = Field(
        25, gt=0, description="StartFHIRImportJob requests (AWS's pages: 25, or 1 a minute, which is 0.0166)"
    )
    concurrent_jobs: int = Field(1, ge=1, description="import jobs at a time (AWS: 1, others queue)")
    job_seconds: float = Field(
        60, ge=0, description="of each import job, whatever it imports; assumed, AWS states none"
    )
    job_mib_per_second: float = Field(20, gt=0, description="that one import job takes; assumed, AWS states none")
    job_resources_per_second: float = Field(
        500, gt=0, description="that one import job takes; assumed, AWS states none"
    )
    copy_seconds: float = Field(0.1, ge=0, description="of writing one import file to a batch's prefix; assumed")
    stored_fraction: float = Field(1, gt=0, description="bytes stored in HealthLake of each byte imported; assumed")
    prices: HealthLakePrices = HealthLakePrices()


class ConversionPrices(S3Prices):
    """What AWS bills; it has stated no price of a conversion, which is a preview."""

    conversion_gib: float | None = Field(
        None, ge=0, description="HealthLake: conversion, per GiB of documents; without it not reckoned"
    )


class CcdaPlanSettings(Settings):
    """What a run with plan_only of a ccda pipeline reckons with; docs/planning.md says how."""

    starts_per_second: float = Field(
        1, gt=0, description="StartDataTransformationJob requests; assumed, AWS states no quota"
    )
    concurrent_jobs: int = Field(1, ge=1, description="conversion jobs at a time (AWS: 1)")
    job_seconds: float = Field(60, ge=0, description="of each conversion job, whatever it converts; assumed")
    job_mib_per_second: float = Field(1, gt=0, description="that one conversion job takes; assumed, AWS states none")
    job_documents_per_second: float = Field(
        1, gt=0, description="that one conversion job takes; assumed, as AWS's quota of the synchronous conversion"
    )
    copy_seconds: float = Field(0.1, ge=0, description="of one document's copy to a batch's prefix; assumed")
    prices: ConversionPrices = ConversionPrices()
