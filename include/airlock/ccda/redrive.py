"""Redrive of C-CDA documents: their resources are those of the chain that takes what was converted."""

from __future__ import annotations

from airlock.ccda.records import FOLDER
from airlock.clinical.records import DISPOSITIONS
from airlock.clinical.report import CSV_COLUMNS
from airlock.stages.redrive_resources import ResourceRules

RULES = ResourceRules(CSV_COLUMNS, DISPOSITIONS, FOLDER)
