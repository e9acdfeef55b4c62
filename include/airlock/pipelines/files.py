"""Read pipeline files; a file's error names each wrong field before any run starts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from airlock.pipelines.ccda import CcdaPipeline
from airlock.pipelines.clinical import ClinicalPipeline
from airlock.pipelines.imaging import ImagingPipeline
from airlock.pipelines.published_schema import with_head
from airlock.pipelines.unique_fields import parse_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from airlock.pipelines.parts import Pipeline

AnyPipeline = Annotated[ImagingPipeline | ClinicalPipeline | CcdaPipeline, Field(discriminator="kind")]
_READER: TypeAdapter[ImagingPipeline | ClinicalPipeline | CcdaPipeline] = TypeAdapter(AnyPipeline)


class PipelineError(ValueError):
    """A pipeline file is wrong; its author reads the message, one line for each problem."""


def load_pipeline(path: Path) -> Pipeline:
    """Read one pipeline file.

    Raises
    ------
    PipelineError
        If the file cannot be read or is not YAML, or a field is missing, unknown or wrong; every wrong field is named.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or 2026-02-30
        raise PipelineError(f"{path.name}: the file cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise PipelineError(
            f"{path.name}: the file is not a mapping of fields: write it like include/pipelines/sample.yaml"
        )
    try:
        return _READER.validate_python(content)
    except ValidationError as error:
        problems = (f"{path.name}: {_describe_problem(item)}" for item in error.errors())
        raise PipelineError("\n".join(problems)) from None


_NOT_SHOWN = "url"  # a wrong webhook address may contain a password


def _describe_problem(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"][1:])  # the first part is the kind
    if item["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        return "field 'kind' must be imaging, clinical or ccda"
    if item["type"] == "extra_forbidden":
        return f"field {where!r} is unknown: remove it, or see docs/pipelines.md for the right name"
    if item["type"] == "missing":
        return f"field {where!r} is missing: add it"
    message: str = item["msg"].removeprefix("Value error, ")
    if not item["loc"][1:]:
        return message  # a rule about several fields names them itself
    if item["type"] == "string_type" and isinstance(item["input"], int | float):
        message += "; put it in quotes, because YAML reads digits as a number"
    value = item.get("input")
    shown = (
        f" (it is {value!r})" if isinstance(value, str | int | float | bool) and item["loc"][-1] != _NOT_SHOWN else ""
    )
    return f"field {where!r}: {message}{shown}"


def load_pipelines(folder: Path, name: str = "") -> tuple[dict[str, Pipeline], list[PipelineError]]:
    """Read every ``*.yaml`` and ``*.yml`` of a folder.

    Parameters
    ----------
    folder
        The folder of the pipeline files.
    name
        Read only files with the line ``name: <name>``. A file can give its pipeline's name in another form of YAML: if
        the name is not found, read all.

    Returns
    -------
    pipelines
        The valid pipelines by name.
    problems
        One error per wrong file; two pipelines with the same name are both left out.
    """
    found: dict[str, list[tuple[Path, Pipeline]]] = {}
    problems: list[PipelineError] = []
    for path in _list_files(folder):
        if name and not _has_name_line(path, name):
            continue
        try:
            pipeline = load_pipeline(path)
        except PipelineError as error:
            problems.append(error)
        else:
            found.setdefault(pipeline.name, []).append((path, pipeline))
    for twice, entries in found.items():
        if len(entries) > 1:
            files = " and ".join(path.name for path, _ in entries)
            problems.append(
                PipelineError(f"{files} name their pipeline {twice!r}: rename one; neither runs until then")
            )
    loaded = {name: entries[0][1] for name, entries in found.items() if len(entries) == 1}
    shared = _find_queue_conflicts(loaded.values()) | _find_patient_conflicts(loaded.values())
    problems += shared.values()
    return {name: pipeline for name, pipeline in loaded.items() if name not in shared}, problems


def _find_patient_conflicts(pipelines: Iterable[Pipeline]) -> dict[str, PipelineError]:
    """Return an error per pipeline that says otherwise than another one whose the studies of the same data stores are.

    Each would publish the other's studies for another Patient.
    """
    first: dict[tuple[str, str], ImagingPipeline] = {}
    errors: dict[str, PipelineError] = {}
    for one in pipelines:
        if not isinstance(one, ImagingPipeline) or one.healthlake is None:
            continue
        other = first.setdefault((one.healthimaging.datastore_id, one.healthlake.datastore_id), one)
        said = [(each.publish.patient_match, each.publish.issuer_systems) for each in (one, other)]
        if said[0] != said[1] and (said[0][0] is not None or said[1][0] is not None):
            errors[one.name] = PipelineError(
                f"pipelines {other.name!r} and {one.name!r} publish the studies of one data store, but "
                f"publish.patient_match or publish.issuer_systems differ: make them equal; {one.name!r} does not run "
                f"until then"
            )
    return errors


def _find_queue_conflicts(pipelines: Iterable[Pipeline]) -> dict[str, PipelineError]:
    """Return an error per pipeline that reads another pipeline's queue with different settings.

    Two readers of a queue would get half of its messages each. With equal settings Airflow reads it once for both.
    """
    first: dict[str, Pipeline] = {}
    errors: dict[str, PipelineError] = {}
    for pipeline in pipelines:
        if pipeline.arrivals is None:
            continue
        other = first.setdefault(pipeline.arrivals.queue_url, pipeline)
        if other.arrivals != pipeline.arrivals:
            errors[pipeline.name] = PipelineError(
                f"pipelines {other.name!r} and {pipeline.name!r} have the same arrivals.queue_url but other fields of "
                f"arrivals differ: make the sections equal, or give each pipeline a queue of its own; "
                f"{pipeline.name!r} does not run until then"
            )
    return errors


def _list_files(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        raise PipelineError(f"{folder} is not a folder: set AIRLOCK_PIPELINES to the folder of the pipeline files")
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in {".yaml", ".yml"})
    except OSError as error:
        raise PipelineError(
            f"{folder} cannot be read: {error}: correct its permissions, or set AIRLOCK_PIPELINES to another folder"
        ) from error


def _has_name_line(path: Path, name: str) -> bool:
    """Return whether a file has the line that names this pipeline; True if it cannot be read: reading it says why."""
    line = rf"""^name:\s*(["']?){re.escape(name)}\1\s*(#.*)?$"""
    try:
        return re.search(line, path.read_text(encoding="utf-8"), re.MULTILINE) is not None
    except (OSError, ValueError):
        return True


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a pipeline file."""
    return with_head(_READER.json_schema(by_alias=True), "airlock.pipeline/1", "A pipeline file of Airlock")
