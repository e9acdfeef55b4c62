"""The commands and their options; what each does lies in the module of its name, imported when it is called."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from airlock_cli.errors import CommandError, RequestError, Status
from airlock_cli.show import print_json, print_tables, say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airlock_cli.show import Table


class Commands(TyperGroup):
    """A group whose commands end with a sentence and a status where they cannot do what was asked."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; its errors become exit statuses."""
        try:
            return super().invoke(ctx)
        except CommandError as error:
            say(str(error))
            raise typer.Exit(error.status) from None
        except KeyboardInterrupt:
            say("no longer watched; a run that was started goes on in Airflow")
            raise typer.Exit(Status.INTERRUPTED) from None


_STYLE: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None}
app = typer.Typer(
    cls=Commands,
    help="Ask and run Airlock. Exit status: 0 done, 1 something is wrong or not there, 2 wrong request, 3 Airflow, the "
    "ledger or S3 out of reach, 4 the run is not decided yet.",
    pretty_exceptions_enable=False,  # they would print the values of variables, passwords too
    add_completion=False,
    **_STYLE,
)
ledger_app = typer.Typer(help="Look after the ledger.", **_STYLE)
pipelines_app = typer.Typer(help="Look after the pipeline files.", **_STYLE)
app.add_typer(ledger_app, name="ledger")
app.add_typer(pipelines_app, name="pipelines")


class NonPrimary(StrEnum):
    """What a redrive may do with a non-primary image set."""

    PROMOTE = "promote"
    DELETE = "delete"


Pipeline = Annotated[str, typer.Argument(help="The pipeline's name.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run to its end, or only start it.")]
Minutes = Annotated[
    float | None,
    typer.Option("--timeout-minutes", min=0, help="Follow no longer than this; the run goes on. [exit status 4]"),
]
Prefix = Annotated[
    str | None, typer.Option(help="Take in only what lies below this prefix of the source; it ends in '/'.")
]
WindowStart = Annotated[
    str | None, typer.Option(help="Take in arrivals from this moment on, as 2026-11-24T00:00:00+00:00.")
]
WindowEnd = Annotated[str | None, typer.Option(help="Take in arrivals before this moment.")]


def _print(as_json: bool, content: Any, tables: Iterable[Table]) -> None:
    """Print a result as JSON, or as tables."""
    if as_json:
        print_json(content)
    else:
        print_tables(tables)


@app.command()
def plan(
    pipeline: Pipeline,
    *,
    prefix: Prefix = None,
    window_start: WindowStart = None,
    window_end: WindowEnd = None,
    wait: Wait = True,
    timeout_minutes: Minutes = None,
    json: Json = False,
) -> None:
    """Say what a run would do, without importing: objects, studies or resources, rejects, hours and cost."""
    from airlock_cli import plan as plans  # noqa: PLC0415
    from airlock_cli import runs, workspaces  # noqa: PLC0415

    conf = runs.conf_of(pipeline, prefix, window_start, window_end) | {"plan_only": True}
    if wait:
        workspaces.pipeline_named(pipeline)  # the plan is read from its workspace: find out before the run
    started = runs.start(pipeline, conf, wait=wait, minutes=timeout_minutes)
    if not wait:
        _print(json, started.as_json(), [started.table()])
        return
    runs.need_success(started)
    found = runs.plan_of(started)
    _print(json, found, plans.tables(found))


@app.command()
def run(
    pipeline: Pipeline,
    *,
    prefix: Prefix = None,
    window_start: WindowStart = None,
    window_end: WindowEnd = None,
    wait: Wait = True,
    timeout_minutes: Minutes = None,
    json: Json = False,
) -> None:
    """Start a run and follow it to its report."""
    from airlock_cli import runs  # noqa: PLC0415

    conf = runs.conf_of(pipeline, prefix, window_start, window_end)
    _run(pipeline, conf, wait=wait, minutes=timeout_minutes, json=json)


def _run(pipeline: str, conf: dict[str, Any], *, wait: bool, minutes: float | None, json: bool) -> None:
    """Start a run, print what it has come to, and end with its status."""
    from airlock_cli import report as reports  # noqa: PLC0415
    from airlock_cli import runs  # noqa: PLC0415

    if wait:
        reports.need_place()
    started = runs.start(pipeline, conf, wait=wait, minutes=minutes)
    found = runs.report_of(started) if wait else None
    shown = [started.table()] if found is None else [started.table(), *reports.tables(found)]
    _print(json, started.as_json() | {"report": found}, shown)
    if wait:
        runs.need_success(started)
        raise typer.Exit(Status.WRONG if found is None else reports.status(found))


@app.command()
def redrive(
    pipeline: Pipeline,
    *,
    why: Annotated[str, typer.Option(help="Why; it goes to the ledger and the report.", show_default=False)],
    run: Annotated[str | None, typer.Option(help="Those of this run: its key, or Airflow's run id.")] = None,
    study: Annotated[
        str | None, typer.Option(help="Those of this study: its StudyInstanceUID, which stays here, or study_key.")
    ] = None,
    reason: Annotated[list[str] | None, typer.Option(help="Those with this reason code; may be repeated.")] = None,
    csv: Annotated[
        str | None, typer.Option(help="The rows of an edited dispositions.csv: a file, or its s3:// address.")
    ] = None,
    non_primary: Annotated[
        NonPrimary | None, typer.Option(help="What to do with non-primary image sets, if they are among the chosen.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be chosen; start nothing.")] = False,
    wait: Wait = True,
    timeout_minutes: Minutes = None,
    json: Json = False,
) -> None:
    """Take held, quarantined or failed arrivals through again; what is given together narrows the choice."""
    from airlock_cli import redrive as redrives  # noqa: PLC0415

    choice = redrives.Choice(run, study, tuple(reason or ()), csv, non_primary.value if non_primary else None)
    conf = redrives.conf_of(pipeline, choice, why)
    if dry_run:
        found = redrives.chosen(pipeline, conf)
        _print(json, found, redrives.tables(found))
        return
    _run(pipeline, conf, wait=wait, minutes=timeout_minutes, json=json)


@app.command()
def report(
    pipeline: Pipeline,
    run: Annotated[
        str | None, typer.Argument(help="Airflow's run id, or the run's key. [default: the newest]", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Show the report of a run: counts, reasons, import jobs, problems."""
    from airlock_cli import report as reports  # noqa: PLC0415

    found = reports.report(pipeline, run)
    _print(json, found, reports.tables(found))
    raise typer.Exit(reports.status(found))


@app.command()
def where(
    what: Annotated[
        str,
        typer.Argument(
            metavar="STUDY_UID|SOP_UID|KEY",
            help="A StudyInstanceUID, study_key, SOPInstanceUID, object key, arrival_id, or FHIR resource as Type/id.",
            show_default=False,
        ),
    ],
    json: Json = False,
) -> None:
    """Say everything that is known of a study, an instance, an object or a FHIR resource."""
    from airlock_cli import where as places  # noqa: PLC0415

    found = places.where(_as_utf8("STUDY_UID|SOP_UID|KEY", what))
    _print(json, found, places.tables(found))


def _as_utf8(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(f"{name} is not UTF-8, as all keys and UIDs are: give it as the report names it") from None
    return text


@app.command()
def held(
    pipeline: Annotated[str | None, typer.Argument(help="Only of this pipeline.", show_default=False)] = None,
    reason: Annotated[str | None, typer.Option(help="Only what has this reason code.")] = None,
    json: Json = False,
) -> None:
    """List what is held now: since when, why, and what to do."""
    from airlock_cli import held as holds  # noqa: PLC0415

    found = holds.held(pipeline, reason)
    if not found["held"]:
        say(holds.nothing(found))
    _print(json, found, holds.tables(found))


@pipelines_app.command("check")
def pipelines_check(
    folder: Annotated[
        Path | None, typer.Argument(help="Of the pipeline files. [default: AIRLOCK_PIPELINES]", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Read every pipeline file of a folder, and say what is wrong with each."""
    from airlock_cli import pipelines, settings  # noqa: PLC0415

    found = pipelines.check(folder or settings.pipelines())
    _print(json, found, pipelines.tables(found))
    raise typer.Exit(Status.WRONG if found["problems"] else Status.OK)


@ledger_app.command("upgrade")
def ledger_upgrade() -> None:
    """Create the ledger, or bring an older one up to date."""
    from airlock_cli import ledgers  # noqa: PLC0415

    say(ledgers.upgrade())


@ledger_app.command("check")
def ledger_check() -> None:
    """Say whether the ledger is there and up to date."""
    from airlock_cli import ledgers  # noqa: PLC0415

    say(ledgers.check())


@ledger_app.command("release")
def ledger_release(
    pipeline: Pipeline,
    run: Annotated[
        str, typer.Argument(help="The run's key, as in its report, or Airflow's run id.", show_default=False)
    ],
    jobs_ended: Annotated[
        bool, typer.Option("--jobs-ended", help="You have seen in AWS that the run's import jobs have ended.")
    ] = False,
) -> None:
    """Give back what a run that will never go on still holds, so that the next run takes it."""
    from airlock_cli import ledgers  # noqa: PLC0415

    for line in ledgers.release(pipeline, run, jobs_ended=jobs_ended):
        say(line)


@ledger_app.command("requeue")
def ledger_requeue(
    pipeline: Pipeline,
    destination: Annotated[str | None, typer.Option(help="Only this one, as the outbox names it.")] = None,
) -> None:
    """Have the next run send what a destination did not take."""
    from airlock_cli import ledgers  # noqa: PLC0415

    say(ledgers.requeue(pipeline, destination))
