"""Reading pipeline files: one error per file, naming each field that is wrong, before any run starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from airlock.pipelines.ccda import CcdaPipeline
from airlock.pipelines.clinical import ClinicalPipeline
from airlock.pipelines.imaging import ImagingPipeline

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from airlock.pipelines.parts import Pipeline

AnyPipeline = Annotated[ImagingPipeline | ClinicalPipeline | CcdaPipeline, Field(discriminator="kind")]
_READER: TypeAdapter[ImagingPipeline | ClinicalPipeline | CcdaPipeline] = TypeAdapter(AnyPipeline)


class PipelineError(ValueError):
    """A pipeline file is wrong; the message is what the user reads."""


def load_pipeline(path: Path) -> Pipeline:
    """Read one pipeline file.

    Raises
    ------
    PipelineError
        If it cannot be read, is no YAML, or a field is missing, unknown or wrong; every wrong field is named.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or 2026-02-30
        raise PipelineError(f"{path.name}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise PipelineError(f"{path.name}: a pipeline is a mapping of fields, as in include/pipelines/sample.yaml")
    try:
        return _READER.validate_python(content)
    except ValidationError as error:
        problems = "; ".join(_problem(item) for item in error.errors())
        raise PipelineError(f"{path.name}: {problems}") from None


_NOT_SHOWN = "url"  # of a webhook: what is wrong with it may be the password in it


def _problem(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"][1:])  # the first part is the kind
    if item["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        return "field 'kind' must be imaging, clinical or ccda: it says what travels"
    if item["type"] == "extra_forbidden":
        return f"unknown field {where!r}: remove it, or see docs/pipelines.md for the right name"
    if item["type"] == "missing":
        return f"field {where!r} is missing: add it"
    message: str = item["msg"].removeprefix("Value error, ")
    if not item["loc"][1:]:
        return message  # of a rule about several fields, which names them
    if item["type"] == "string_type" and isinstance(item["input"], int | float):
        message += "; put it in quotes, since YAML reads digits as a number"
    value = item.get("input")
    shown = (
        f" (it is {value!r})" if isinstance(value, str | int | float | bool) and item["loc"][-1] != _NOT_SHOWN else ""
    )
    return f"field {where!r}: {message}{shown}"


def load_pipelines(folder: Path) -> tuple[dict[str, Pipeline], list[PipelineError]]:
    """Read every ``*.yaml`` and ``*.yml`` of a folder.

    Returns
    -------
    pipelines
        The good ones by name.
    problems
        One error per bad file; of two pipelines with one name neither is used.
    """
    found: dict[str, list[tuple[Path, Pipeline]]] = {}
    problems: list[PipelineError] = []
    for path in _files(folder):
        try:
            pipeline = load_pipeline(path)
        except PipelineError as error:
            problems.append(error)
        else:
            found.setdefault(pipeline.name, []).append((path, pipeline))
    for name, entries in found.items():
        if len(entries) > 1:
            files = " and ".join(path.name for path, _ in entries)
            problems.append(
                PipelineError(f"two pipelines are named {name!r}, in {files}: rename one; neither runs until then")
            )
    loaded = {name: entries[0][1] for name, entries in found.items() if len(entries) == 1}
    shared = _differing_over_a_queue(loaded.values())
    problems += shared.values()
    return {name: pipeline for name, pipeline in loaded.items() if name not in shared}, problems


def _differing_over_a_queue(pipelines: Iterable[Pipeline]) -> dict[str, PipelineError]:
    """Return an error per pipeline that reads another one's queue with other settings.

    Two readers of a queue get half of its messages each; with the same settings Airflow reads once for both.
    """
    first: dict[str, Pipeline] = {}
    errors: dict[str, PipelineError] = {}
    for pipeline in pipelines:
        if pipeline.arrivals is None:
            continue
        other = first.setdefault(pipeline.arrivals.queue_url, pipeline)
        if other.arrivals != pipeline.arrivals:
            errors[pipeline.name] = PipelineError(
                f"pipelines {other.name!r} and {pipeline.name!r} have one arrivals.queue_url and other settings beside "
                f"it: make the two sections equal, or give each a queue; {pipeline.name!r} does not run until then"
            )
    return errors


def _files(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        raise PipelineError(f"{folder} is no folder: set AIRLOCK_PIPELINES to the folder of the pipeline files")
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in {".yaml", ".yml"})
    except OSError as error:
        raise PipelineError(
            f"{folder} cannot be read: {error}: correct its permissions, or set AIRLOCK_PIPELINES to another folder"
        ) from error


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a pipeline file."""
    return _READER.json_schema(by_alias=True)
