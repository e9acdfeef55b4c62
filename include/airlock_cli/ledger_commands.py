"""The commands of ``airlock ledger``, which maintain the ledger."""

from __future__ import annotations

from typing import Annotated

import typer

from airlock_cli.commands import STYLE, Json, Pipeline, show_result
from airlock_cli.errors import RequestError, Status
from airlock_cli.show import say

ledger_app = typer.Typer(help="Maintain the ledger.", **STYLE)


@ledger_app.command("upgrade")
def ledger_upgrade() -> None:
    """Create the ledger, or upgrade its schema."""
    from airlock_cli import ledgers  # noqa: PLC0415

    say(ledgers.upgrade())


@ledger_app.command("check")
def ledger_check() -> None:
    """Check that the ledger exists and its schema is current."""
    from airlock_cli import ledgers  # noqa: PLC0415

    say(ledgers.check())


@ledger_app.command("adopt")
def ledger_adopt(
    *,
    datastore: Annotated[str, typer.Option(help="The id of the data store.", show_default=False)],
    why: Annotated[str, typer.Option(help="Why runs may import into it; the decision log keeps it.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much it holds.")] = False,
    json: Json = False,
) -> None:
    """Record what others have stored in a data store as foreign, so that runs may import into it."""
    from airlock_cli import adopt  # noqa: PLC0415

    found = adopt.adopt(datastore, why, dry_run=dry_run)
    show_result(json, found, adopt.tables(found))


@ledger_app.command("copy")
def ledger_copy() -> None:
    """Copy the ledger to the empty database that AIRLOCK_LEDGER_TARGET_URL names."""
    from airlock_cli import ledgers  # noqa: PLC0415

    say(ledgers.copy())


@ledger_app.command("rebuild")
def ledger_rebuild(
    onto_backup: Annotated[
        bool,
        typer.Option("--onto-backup", help="The ledger is a restored backup: repeat only what came after it."),
    ] = False,
    json: Json = False,
) -> None:
    """Fill an empty ledger from the workspaces of all pipeline files, after the ledger was lost."""
    from airlock_cli import ledgers  # noqa: PLC0415

    found = ledgers.rebuild(say, onto_backup=onto_backup)
    show_result(json, found.to_json(), ledgers.rebuilt_tables(found))
    raise typer.Exit(Status.WRONG if found.is_incomplete else Status.OK)


@ledger_app.command("release")
def ledger_release(
    pipeline: Pipeline,
    run: Annotated[
        str, typer.Argument(help="The run's key, as in its report, or Airflow's run id.", show_default=False)
    ],
    jobs_ended: Annotated[
        bool,
        typer.Option("--jobs-ended", help="Confirm that you checked in AWS that the run's import jobs have ended."),
    ] = False,
) -> None:
    """Release the arrivals of a run that will never continue, so that the next run takes them."""
    from airlock_cli import ledgers  # noqa: PLC0415

    for line in ledgers.release(pipeline, run, jobs_ended=jobs_ended):
        say(line)


@ledger_app.command("forget")
def ledger_forget(
    pipeline: Pipeline,
    *,
    study: Annotated[
        str, typer.Option(help="The study: its study_key, or its StudyInstanceUID, which is hashed here.")
    ],
    why: Annotated[str, typer.Option(help="The reason, kept in the decision log.", show_default=False)],
) -> None:
    """Record that what the data store lacks of a study was removed on purpose."""
    from airlock_cli import ledgers  # noqa: PLC0415

    say(ledgers.forget(pipeline, study, why))


@ledger_app.command("requeue")
def ledger_requeue(
    pipeline: Pipeline,
    destination: Annotated[str | None, typer.Option(help="Only for this destination, as the outbox names it.")] = None,
    match_again: Annotated[
        bool,
        typer.Option("--match-again", help="Match everything released with the present routes, for a new route."),
    ] = False,
    run: Annotated[
        str | None,
        typer.Option(help="With --match-again or --edge: only what this run released or holds (run key or run id)."),
    ] = None,
    edge: Annotated[
        bool, typer.Option("--edge", help="Tell the edge again what became of everything that is settled.")
    ] = False,
) -> None:
    """Have the next run send again the messages that destinations did not accept."""
    from airlock_cli import ledgers  # noqa: PLC0415

    if (match_again or edge) and destination is not None:
        raise RequestError("--match-again and --edge are about all destinations. Omit --destination.")
    if match_again and edge:
        raise RequestError("--match-again is about routes, --edge about the edge. Give one of them.")
    if run is not None and not (match_again or edge):
        raise RequestError("--run limits --match-again or --edge. Add one of them, or omit --run.")
    if edge:
        say(ledgers.tell_edge_again(pipeline, run))
    else:
        say(ledgers.match_again(pipeline, run) if match_again else ledgers.requeue(pipeline, destination))
