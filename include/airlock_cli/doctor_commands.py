"""The command ``airlock doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from airlock_cli.commands import Json, show_result


def doctor(
    pipeline: Annotated[
        str | None, typer.Argument(help="The pipeline's name. [default: all pipelines]", show_default=False)
    ] = None,
    *,
    seconds: Annotated[float, typer.Option(min=1, max=300, help="The longest time for one check.")] = 15,
    json: Json = False,
) -> None:
    """Check that everything a pipeline needs is there, reachable and set up safely. Nothing is changed."""
    from airlock_cli import doctor as doctors  # noqa: PLC0415

    found = doctors.check(pipeline, seconds)
    show_result(json, found, doctors.tables(found))
    raise typer.Exit(doctors.status(found))
