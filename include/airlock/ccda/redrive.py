"""Redrive of C-CDA documents: their resources are in the datasets of the folder ``fhir``, after the conversion."""

from __future__ import annotations

from airlock.ccda.records import FOLDER
from airlock.stages.redrive_resources import ResourceRules

RULES = ResourceRules(FOLDER)
