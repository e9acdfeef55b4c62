"""Redrive of C-CDA documents: their resources are those of the second chain of stages, after the conversion."""

from __future__ import annotations

from airlock.ccda.records import FOLDER
from airlock.stages.redrive_resources import ResourceRules

RULES = ResourceRules(FOLDER)
