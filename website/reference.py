"""The pages that are made from the code: healthaws, the command line, the pipeline file and the other schemas."""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import TYPE_CHECKING

import typer
from typer.cli import get_docs_for_click

from airlock_cli.app import app
from website.schemas import write_schema

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

FOLDER = "docs/reference"
# The parts of the provider, by the module or package that holds them.
HEALTHAWS = ("operators", "sensors", "hooks", "triggers", "links")
# The published schemas: the module that makes each, and the page's name.
SCHEMAS = {
    "pipeline": "airlock.pipelines",
    "study-contract": "airlock.imaging.contracts",
    "clinical-contract": "airlock.clinical.contracts",
    "plan": "airlock.stages.plan",
}
_AUTOMODULE = "## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n   :show-inheritance:\n```\n\n"


def write_reference(target: Path) -> list[str]:
    """Write all pages below a folder; return their paths below it, in the order of the navigation."""
    pages = {f"healthaws-{part}": describe_package(part) for part in HEALTHAWS}
    pages["healthaws-modules"] = describe_modules()
    pages["command-line"] = describe_command_line()
    pages |= {f"schema-{name}": describe_schema(module) for name, module in SCHEMAS.items()}
    (target / FOLDER).mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (target / FOLDER / f"{name}.md").write_text(text, encoding="utf-8")
    return [f"{FOLDER}/{name}.md" for name in pages]


def describe_package(part: str) -> str:
    """Return the page of a package of healthaws, with a section per module."""
    package = importlib.import_module(f"healthaws.{part}")
    modules = [f"{package.__name__}.{found.name}" for found in pkgutil.iter_modules(package.__path__)]
    return f"# healthaws: {part}\n\n{_first_line(package)}\n\n" + "".join(
        _AUTOMODULE.format(name=name) for name in modules
    )


def describe_modules() -> str:
    """Return the page of the modules that lie right below healthaws."""
    package = importlib.import_module("healthaws")
    modules = [found.name for found in pkgutil.iter_modules(package.__path__) if not found.ispkg]
    sections = "".join(_AUTOMODULE.format(name=f"healthaws.{name}") for name in modules)
    return f"# healthaws: errors, job states and the FHIR client\n\n{_first_line(package)}\n\n{sections}"


def describe_command_line() -> str:
    """Return the page of the command ``airlock``, with a section per command."""
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="airlock", title="The command airlock")
    return re.sub(r"\*\*(Usage|Arguments|Options|Commands)\*\*:", r"\1:", text)


def describe_schema(module: str) -> str:
    """Return the page of a published schema, as the module makes it."""
    return write_schema(importlib.import_module(module).json_schema())


def _first_line(module: ModuleType) -> str:
    return (module.__doc__ or "").partition("\n\n")[0]
