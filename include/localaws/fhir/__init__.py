"""Validation of FHIR R4 resources, as a HealthLake data store does it; see docs/fhir-validation.md."""

from localaws.fhir.findings import Findings, Issue, Level, operation_outcome
from localaws.fhir.validator import Validator

__all__ = ["Findings", "Issue", "Level", "Validator", "operation_outcome"]
