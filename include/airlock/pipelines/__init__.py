"""Pipeline files: each YAML file in include/pipelines/ is read into typed settings before a run starts.

Errors name the file, the field, the value and the fix. ``json_schema()`` is published as docs/pipeline.schema.json,
with which an editor checks a file while it is written.
"""

from airlock.pipelines.arrivals import Arrivals
from airlock.pipelines.brake import Brake
from airlock.pipelines.buckets import BucketSettings
from airlock.pipelines.ccda import CcdaPipeline, Transformation
from airlock.pipelines.classify import Classify
from airlock.pipelines.clinical import (
    ClinicalAudit,
    ClinicalParse,
    ClinicalPipeline,
    ClinicalValidate,
    Risk,
    ValidationLevel,
    Workflow,
)
from airlock.pipelines.declared import DeclaredCount
from airlock.pipelines.edge import Edge
from airlock.pipelines.files import PipelineError, json_schema, load_pipeline, load_pipelines
from airlock.pipelines.healthlake import HealthLake, Publish
from airlock.pipelines.imaging import (
    ELEMENT_LENGTHS,
    SOFT_REASONS,
    Audit,
    FirstRange,
    HealthImaging,
    ImagingPipeline,
    Limits,
    ParseSettings,
    Publication,
    Validate,
)
from airlock.pipelines.notify import Event, Notify
from airlock.pipelines.order import SAFETY_TYPES, Order
from airlock.pipelines.parts import (
    REVIEW_SUFFIX,
    SWEEP_SUFFIX,
    ImportWindow,
    Pipeline,
    Receive,
    Schedule,
    Source,
    Staging,
)
from airlock.pipelines.patient_match import CrosswalkRule, IdentifierRule, OrderRule, PatientMatch
from airlock.pipelines.plan import (
    CcdaPlanSettings,
    ClinicalPlanSettings,
    ConversionPrices,
    HealthLakePrices,
    PlanSettings,
    Prices,
    S3Prices,
)
from airlock.pipelines.review import Review
from airlock.pipelines.routes import (
    AnyDestination,
    AssetDestination,
    Delivery,
    EventBridgeDestination,
    Route,
    S3Destination,
    SnsDestination,
    SqsDestination,
    StowDestination,
    WebhookDestination,
)
from airlock.pipelines.settings import NAME, Prefix
from airlock.pipelines.sweep import Sweep

__all__ = [
    "ELEMENT_LENGTHS",
    "NAME",
    "REVIEW_SUFFIX",
    "SAFETY_TYPES",
    "SOFT_REASONS",
    "SWEEP_SUFFIX",
    "AnyDestination",
    "Arrivals",
    "AssetDestination",
    "Audit",
    "Brake",
    "BucketSettings",
    "CcdaPipeline",
    "CcdaPlanSettings",
    "Classify",
    "ClinicalAudit",
    "ClinicalParse",
    "ClinicalPipeline",
    "ClinicalPlanSettings",
    "ClinicalValidate",
    "ConversionPrices",
    "CrosswalkRule",
    "DeclaredCount",
    "Delivery",
    "Edge",
    "Event",
    "EventBridgeDestination",
    "FirstRange",
    "HealthImaging",
    "HealthLake",
    "HealthLakePrices",
    "IdentifierRule",
    "ImagingPipeline",
    "ImportWindow",
    "Limits",
    "Notify",
    "Order",
    "OrderRule",
    "ParseSettings",
    "PatientMatch",
    "Pipeline",
    "PipelineError",
    "PlanSettings",
    "Prefix",
    "Prices",
    "Publication",
    "Publish",
    "Receive",
    "Review",
    "Risk",
    "Route",
    "S3Destination",
    "S3Prices",
    "Schedule",
    "SnsDestination",
    "Source",
    "SqsDestination",
    "Staging",
    "StowDestination",
    "Sweep",
    "Transformation",
    "Validate",
    "ValidationLevel",
    "WebhookDestination",
    "Workflow",
    "json_schema",
    "load_pipeline",
    "load_pipelines",
]
