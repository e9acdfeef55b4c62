"""The pipeline files that no check can be made for, since they are wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from airlock.stages.doctor.findings import Check, failed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airlock.pipelines import PipelineError
    from airlock.stages.doctor.findings import Finding

TITLE: Final = "pipeline files"  # in the place of a pipeline's name, which has no space
FILE: Final = "pipeline.file"
_FIX: Final = "List the problems: airlock pipelines check"


def find_wrong_files(problems: Sequence[PipelineError], valid: int) -> Iterator[tuple[Check, Finding]]:
    """Yield a failure for each wrong file, and one if there is no file at all.

    Parameters
    ----------
    problems
        From `airlock.pipelines.load_pipelines`. Their texts are not repeated: they quote values of the files.
    valid
        The number of valid pipelines.
    """
    for problem in problems:
        lines = str(problem).splitlines()
        file = lines[0].partition(": ")[0]
        is_one_file = file.endswith((".yaml", ".yml")) and " " not in file
        about, count = (file, len(lines)) if is_one_file else ("several files", 1)
        counted = "1 problem" if count == 1 else f"{count} problems"
        found = failed(f"It is wrong ({counted}): no run of it starts.", _FIX)
        yield Check(FILE, about, lambda found=found: found), found  # type: ignore[misc]
    if not problems and not valid:
        found = failed("There is none.", "Set AIRLOCK_PIPELINES to the folder of the pipeline files.")
        yield Check(FILE, "AIRLOCK_PIPELINES", lambda: found), found
