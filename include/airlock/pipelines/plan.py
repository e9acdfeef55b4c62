"""``plan:`` of a pipeline file: the rates and prices for a plan, since quotas, pools and Regions differ."""

from __future__ import annotations

from datetime import date

from pydantic import Field

from airlock.pipelines.settings import Settings


class S3Prices(Settings):
    """AWS's prices of S3, from aws.amazon.com/s3/pricing."""

    region: str = Field("us-east-1", description="the Region of these prices; a plan shows it")
    as_of: date = Field(date(2026, 10, 7), description="the day on which the prices were read from AWS's price page")
    currency: str = Field("USD", pattern=r"^[A-Z]{3}$", description="currency of all prices, an ISO 4217 code")
    put_per_1000: float = Field(0.005, ge=0, description="S3: PUT, COPY or LIST requests")
    get_per_1000: float = Field(0.0004, ge=0, description="S3: GET requests")
    s3_gib_month: float = Field(0.023, ge=0, description="S3: storage of the batches' copies, per GiB and month")


class Prices(S3Prices):
    """AWS's prices, from aws.amazon.com/s3/pricing and aws.amazon.com/healthimaging/pricing."""

    api_per_1000: float = Field(0.005, ge=0, description="HealthImaging: API calls")
    import_gib: float = Field(0, ge=0, description="HealthImaging: import, per GiB (AWS: free)")
    frequent_gib_month: float = Field(
        0.105, ge=0, description="HealthImaging: Frequent Access tier (the first 30 days), per GiB and month"
    )
    archive_gib_month: float = Field(
        0.006,
        ge=0,
        description="HealthImaging: Archive Instant Access tier (after 30 days without access), per GiB and month",
    )
    least_image_set_mib: float = Field(5, ge=0, description="HealthImaging: smallest billed size of an image set")


class ProjectionSettings(Settings):
    """The figures with which a plan is projected to a whole archive; docs/planning.md explains the calculation."""

    objects: int | None = Field(
        100_000_000, ge=1, description="objects of the whole archive that a plan is projected to; null: no projection"
    )
    list_seconds: float = Field(0.15, ge=0, description="time of one page of a listing (1,000 objects); assumed")
    gets_per_second: float = Field(5_500, gt=0, description="GETs of headers that S3 answers (AWS: 5,500 per prefix)")
    copies_per_second: float = Field(3_500, gt=0, description="copies that S3 makes (AWS: 3,500 per prefix)")
    staging_slots: int = Field(
        4,
        ge=1,
        description="slots of the pool of staging.pool; each has staging.copies_in_flight copies in flight",
    )
    check_seconds_per_million: float = Field(
        80, ge=0, description="time of validate and normalize for a million objects; estimated, correct it by yours"
    )
    audit_seconds_per_million: float = Field(
        112, ge=0, description="time of audit for a million objects; estimated, correct it by yours"
    )
    cpu_ms_per_object: float = Field(
        1.4,
        gt=0,
        description="CPU of workers, Airflow and PostgreSQL for an object, over all stages; correct it by yours",
    )
    cores: float = Field(8, gt=0, description="cores of workers, Airflow and PostgreSQL together")


class PlanSettings(Settings):
    """The rates and prices for a plan; docs/planning.md explains the calculation."""

    starts_per_second: float = Field(1, gt=0, description="StartDICOMImportJob requests (AWS's quota: 1)")
    concurrent_jobs: int = Field(
        20,
        ge=1,
        description="jobs at the same time: the lower of the pool's slots and the data store's quota (AWS: 100)",
    )
    job_seconds: float = Field(60, ge=0, description="fixed time of each job; assumed, AWS states none")
    job_mib_per_second: float = Field(20, gt=0, description="import rate of one job; assumed, AWS states none")
    job_files_per_second: float = Field(50, gt=0, description="import rate of one job; assumed, AWS states none")
    copy_seconds: float = Field(0.1, ge=0, description="time of one server-side copy to a batch's prefix; assumed")
    stored_fraction: float = Field(
        1, gt=0, description="bytes stored for each byte imported; assumed, HealthImaging compresses losslessly"
    )
    prices: Prices = Prices()
    projection: ProjectionSettings = ProjectionSettings()


class HealthLakePrices(S3Prices):
    """AWS's prices; HealthLake's have no default, since they depend on the tier and on free allowances."""

    import_gib: float | None = Field(
        None, ge=0, description="HealthLake: import, per GiB; without it this cost is unknown"
    )
    query_per_1000: float | None = Field(
        None, ge=0, description="HealthLake: queries (reads, searches and $validate); without it this cost is unknown"
    )
    stored_gib_month: float | None = Field(
        None, ge=0, description="HealthLake: storage, per GiB and month; without it this cost is unknown"
    )


class ClinicalPlanSettings(Settings):
    """The rates and prices for a clinical plan; docs/planning.md explains the calculation."""

    starts_per_second: float = Field(
        25, gt=0, description="StartFHIRImportJob requests (AWS's pages: 25, or 1 a minute, which is 0.0166)"
    )
    concurrent_jobs: int = Field(1, ge=1, description="import jobs at the same time (AWS: 1, others queue)")
    job_seconds: float = Field(60, ge=0, description="fixed time of each import job; assumed, AWS states none")
    job_mib_per_second: float = Field(20, gt=0, description="import rate of one job; assumed, AWS states none")
    job_resources_per_second: float = Field(500, gt=0, description="import rate of one job; assumed, AWS states none")
    copy_seconds: float = Field(0.1, ge=0, description="time to write one import file to a batch's prefix; assumed")
    stored_fraction: float = Field(1, gt=0, description="bytes stored in HealthLake for each byte imported; assumed")
    prices: HealthLakePrices = HealthLakePrices()


class ConversionPrices(S3Prices):
    """AWS's prices; it states none for a conversion, which is a preview."""

    conversion_gib: float | None = Field(
        None, ge=0, description="HealthLake: conversion, per GiB of documents; without it this cost is unknown"
    )


class CcdaPlanSettings(Settings):
    """The rates and prices for a ccda plan; docs/planning.md explains the calculation."""

    starts_per_second: float = Field(
        1, gt=0, description="StartDataTransformationJob requests; assumed, AWS states no quota"
    )
    concurrent_jobs: int = Field(1, ge=1, description="conversion jobs at the same time (AWS: 1)")
    job_seconds: float = Field(60, ge=0, description="fixed time of each conversion job; assumed")
    job_mib_per_second: float = Field(1, gt=0, description="conversion rate of one job; assumed, AWS states none")
    job_documents_per_second: float = Field(
        1, gt=0, description="conversion rate of one job; assumed, equal to AWS's quota of the synchronous conversion"
    )
    copy_seconds: float = Field(0.1, ge=0, description="time of one document's copy to a batch's prefix; assumed")
    prices: ConversionPrices = ConversionPrices()
