"""Shows in the UI, as an import error, which pipeline files are wrong and why; the others run all the same."""

from __future__ import annotations

import os
from pathlib import Path

from airlock.pipelines import PipelineError, load_pipelines

PIPELINES = Path(os.environ.get("AIRLOCK_PIPELINES", Path(__file__).parents[1] / "include" / "pipelines"))

_, problems = load_pipelines(PIPELINES)
if problems:
    raise PipelineError("\n".join(str(problem) for problem in problems))
