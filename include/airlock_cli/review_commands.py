"""The commands of ``airlock review``: questions to people about what is held, and their answers."""

from __future__ import annotations

from typing import Annotated

import typer

from airlock_cli.commands import STYLE, Decided, Json, Number, show_result
from airlock_cli.show import say

review_app = typer.Typer(help="Questions to people about what is held, and their answers.", **STYLE)


@review_app.command("list")
def review_list(
    pipeline: Annotated[str | None, typer.Argument(help="Only of this pipeline.", show_default=False)] = None,
    *,
    reason: Annotated[str | None, typer.Option(help="Only with this reason code.")] = None,
    site: Annotated[str | None, typer.Option(help="Only of this site.")] = None,
    json: Json = False,
) -> None:
    """List the reviews that wait for an answer, the oldest first; no identifiers are shown."""
    from airlock_cli import review as reviews  # noqa: PLC0415

    found = reviews.find_reviews(pipeline, reason, site)
    if not found["reviews"]:
        say("No review waits for an answer.")
    show_result(json, found, reviews.tables(found))


@review_app.command("show")
def review_show(
    number: Number,
    sample: Annotated[
        str | None, typer.Argument(help="One of the samples that the review names.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Show a review, or one of the samples of a review about many; the decision log keeps who has opened it."""
    from airlock_cli import review as reviews  # noqa: PLC0415
    from airlock_cli import where as lookup  # noqa: PLC0415

    if sample is not None:
        opened = reviews.open_sample(number, sample)
        show_result(json, opened, lookup.tables(opened))
        return
    found = reviews.show(number)
    show_result(json, found, reviews.tables_of_one(found))


@review_app.command("answer")
def review_answer(
    numbers: Annotated[
        list[int] | None, typer.Argument(help="The numbers of the reviews.", min=1, show_default=False)
    ] = None,
    *,
    why: Decided,
    approve: Annotated[
        bool,
        typer.Option("--approve/--keep-held", help="Release what they are about, or keep it held.", show_default=False),
    ],
    pipeline: Annotated[str | None, typer.Option(help="Without numbers: the pipeline of the reviews.")] = None,
    reason: Annotated[str | None, typer.Option(help="Without numbers: the reason code of the reviews.")] = None,
    site: Annotated[str | None, typer.Option(help="Without numbers: the site of the reviews.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be answered.")] = False,
    json: Json = False,
) -> None:
    """Answer reviews, at most 50 of one reason and site at once, of which you have opened three."""
    from airlock_cli import review as reviews  # noqa: PLC0415

    choice = reviews.Choice(tuple(numbers or ()), pipeline, reason, site)
    found = reviews.answer(choice, approved=approve, why=why, dry_run=dry_run)
    say(reviews.describe_answer(found, approved=approve))
    show_result(json, found, reviews.tables(found))
