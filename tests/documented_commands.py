"""Every command of the README, of CONTRIBUTING.md and of docs/cli.md, and how the tests try it; the lists are closed.

A command that is new in a page, or is changed there, has to be put into one of them. UID stands for any UID.
"""

from __future__ import annotations

PAGES = ("README.md", "CONTRIBUTING.md", "docs/cli.md")

# Run by tests/e2e/test_cli.py on the stack that is up, with the pipeline, prefix and UID of a study that is there.
ON_THE_STACK = {
    'make cli CMD="held"',
    "./airlock held",
    "./airlock doctor nightly",
    "./airlock where UID",
    "airlock held nightly",
    "airlock run nightly --prefix archive/2026/",
    "airlock where UID",
}

_STARTS = "starts a stack of its own; the stack of tests/e2e is started and fed by the same program"
_IN_DOUBT = "tests/integration/test_one_patient.py calls it, with a study that is in doubt"
_BUILD = "is a test, a measurement or a check itself"

# tests/unit/test_documented_commands.py checks their form only: make and the called program accept the words. The
# reason why they are not carried out is beside each.
FORM_ONLY = {
    "make run": _STARTS,
    "make run SOURCE=/any/folder": _STARTS,
    "make run PIPELINE=clinical": _STARTS,
    "make run PIPELINE=clinical SOURCE=/any/folder": _STARTS,
    "make run PIPELINE=ccda": _STARTS,
    "make run PIPELINE=<name>": _STARTS,
    "make run PIPELINE=<name> SOURCE=s3://bucket/prefix/": _STARTS,
    "make demo-arrivals": _STARTS,
    "make demo-edge": _STARTS,
    "make demo-one-patient": _STARTS,
    "airlock patient questions [PIPELINE]": _IN_DOUBT,
    "airlock patient show NUMBER": _IN_DOUBT,
    "airlock patient answer NUMBER": _IN_DOUBT,
    "airlock patient split": _IN_DOUBT,
    "./airlock review list": "lists nothing where nobody is asked; tests/e2e/test_review.py calls the program",
    "make stop": "ends the stack of whoever runs the tests; that of tests/e2e is ended by the same program",
    "make clean": "deletes what make run has made",
    'make airflow CMD="backfill create --dag-id nightly --from-date 2026-11-01 --to-date 2026-12-01 '
    '--max-active-runs 2"': "starts a month of runs; tests/e2e/test_backfill.py runs the same over three days",
    "make test": _BUILD,
    "make test-fast": _BUILD,
    "make proofs": _BUILD,
    "make package-proofs": _BUILD,
    "make explore": _BUILD,
    "make fuzz": _BUILD,
    "make fuzz-edge": _BUILD,
    "make bench": _BUILD,
    "make bench-clinical": _BUILD,
    "make compose-proof": _BUILD,
    "make lint": _BUILD,
    "make docs": _BUILD,
    "make notice": "writes NOTICE; tests/unit/supply/test_notice.py compares it with what is installed",
    "make audit-dependencies": "asks a service on the network; tests/unit/supply/test_supply_environment.py has one",
    "make lock": "replaces the locked versions by today's",
    "./airlock pipelines new": "asks a person; tests/unit/airlock_cli/test_new_pipeline.py answers",
}

# Carried out by tests/unit/test_documented_commands.py.
HERE = {"make help", "python -m airlock.ledger"}
