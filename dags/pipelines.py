"""Show in the UI, as an import error, which pipeline files are wrong and why; the other pipelines still run.

Airflow passes over a file without the words "airflow" and "dag".
"""

from __future__ import annotations

from airlock.pipelines import PipelineError, load_pipelines
from airlock_tasks.dag import PIPELINES

_, problems = load_pipelines(PIPELINES)
if problems:
    raise PipelineError("\n".join(str(problem) for problem in problems))
