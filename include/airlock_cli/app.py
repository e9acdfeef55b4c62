"""The commands and their options; the module named after a command does its work and is imported when it is called."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path  # noqa: TC003  # typer reads the annotations
from typing import Annotated, Any

import typer

from airlock_cli.commands import STYLE, Commands, Json, Pipeline, require_utf8, show_result
from airlock_cli.doctor_commands import doctor
from airlock_cli.errors import RequestError, Status
from airlock_cli.ledger_commands import ledger_app
from airlock_cli.patient_commands import patient_app
from airlock_cli.review_commands import review_app
from airlock_cli.show import say

app = typer.Typer(
    cls=Commands,
    help="Query Airlock and start its runs. Exit status: 0 done; 1 a problem was found, or nothing was found; 2 the "
    "request is wrong; 3 Airflow, the ledger or S3 cannot be reached; 4 the run is not decided yet.",
    pretty_exceptions_enable=False,  # they print the values of variables, passwords included
    add_completion=False,
    **STYLE,
)
pipelines_app = typer.Typer(help="Check the pipeline files, or write one.", **STYLE)
app.add_typer(ledger_app, name="ledger")
app.add_typer(pipelines_app, name="pipelines")
app.add_typer(patient_app, name="patient")
app.add_typer(review_app, name="review")
app.command()(doctor)


class Compared(StrEnum):
    """The parts of a reconciliation."""

    STORE = "store"
    SOURCE = "source"
    EVIDENCE = "evidence"


class Level(StrEnum):
    """How closely files are checked; the names are those of HealthLake's validation levels."""

    STRICT = "strict"
    STRUCTURE_ONLY = "structure-only"
    MINIMAL = "minimal"


class NewKind(StrEnum):
    """The kinds that a new pipeline file can be written for."""

    IMAGING = "imaging"
    CLINICAL = "clinical"


class NonPrimary(StrEnum):
    """The actions of a redrive on a non-primary image set."""

    PROMOTE = "promote"
    DELETE = "delete"


Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run to its end, or start it and return.")]
Minutes = Annotated[
    float | None,
    typer.Option(
        "--timeout-minutes", min=0, help="Stop following after this time, with exit status 4; the run continues."
    ),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        help="Only import objects whose key starts with this prefix; it is inside the source and ends in '/'."
    ),
]
WindowStart = Annotated[
    str | None,
    typer.Option(help="Only import what arrived at or after this time, for example 2026-11-24T00:00:00+00:00."),
]
WindowEnd = Annotated[str | None, typer.Option(help="Only import what arrived before this time.")]


@app.command()
def plan(
    pipeline: Pipeline,
    *,
    prefix: Prefix = None,
    window_start: WindowStart = None,
    window_end: WindowEnd = None,
    impact: Annotated[
        bool,
        typer.Option(
            "--impact",
            help="Start no run: show how much each rule would hold of what earlier runs and plans have read.",
        ),
    ] = False,
    wait: Wait = True,
    timeout_minutes: Minutes = None,
    json: Json = False,
) -> None:
    """Show what a run would do, without importing: objects, studies or resources, rejects, hours and cost."""
    from airlock_cli import impact as impacts  # noqa: PLC0415
    from airlock_cli import plan as plans  # noqa: PLC0415
    from airlock_cli import runs, workspaces  # noqa: PLC0415

    if impact:
        if prefix or window_start or window_end:
            raise RequestError("--impact is about all earlier runs and plans. Leave out the prefix and the window.")
        measured = impacts.measure(pipeline)
        show_result(json, measured, impacts.tables(measured))
        return
    conf = runs.build_run_conf(pipeline, prefix, window_start, window_end) | {"plan_only": True}
    if wait:
        workspaces.load_named_pipeline(pipeline)  # the plan is read from its workspace: fail before the run starts
    started = runs.start(pipeline, conf, wait=wait, minutes=timeout_minutes)
    if not wait:
        show_result(json, started.as_json(), [started.table()])
        return
    runs.require_success(started)
    found = runs.plan_of(started)
    show_result(json, found, plans.tables(found))


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

    conf = runs.build_run_conf(pipeline, prefix, window_start, window_end)
    _run(pipeline, conf, wait=wait, minutes=timeout_minutes, json=json)


def _run(pipeline: str, conf: dict[str, Any], *, wait: bool, minutes: float | None, json: bool) -> None:
    """Start a run, print its result, and exit with its status."""
    from airlock_cli import report as reports  # noqa: PLC0415
    from airlock_cli import runs  # noqa: PLC0415

    if wait:
        reports.require_report_source()
    started = runs.start(pipeline, conf, wait=wait, minutes=minutes)
    found = runs.report_of(started) if wait else None
    shown = [started.table()] if found is None else [started.table(), *reports.tables(found)]
    show_result(json, started.as_json() | {"report": found}, shown)
    if wait:
        runs.require_success(started)
        raise typer.Exit(Status.WRONG if found is None else reports.status(found))


@app.command()
def redrive(
    pipeline: Pipeline,
    *,
    why: Annotated[str, typer.Option(help="The reason, kept in the ledger and the report.", show_default=False)],
    run: Annotated[str | None, typer.Option(help="Arrivals of this run: its key, or Airflow's run id.")] = None,
    study: Annotated[
        str | None,
        typer.Option(help="Arrivals of this study: its study_key, or its StudyInstanceUID, which is hashed here."),
    ] = None,
    reason: Annotated[list[str] | None, typer.Option(help="Arrivals with this reason code; can be repeated.")] = None,
    site: Annotated[str | None, typer.Option(help="Only of this site, with --run, --study or --reason.")] = None,
    csv: Annotated[
        str | None, typer.Option(help="Arrivals in an edited dispositions.csv: a file, or its s3:// address.")
    ] = None,
    findings: Annotated[
        bool, typer.Option("--findings", help="What airlock reconcile found to be missing in the data store.")
    ] = False,
    non_primary: Annotated[
        NonPrimary | None, typer.Option(help="The action on non-primary image sets among the chosen arrivals.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be chosen; start nothing.")] = False,
    wait: Wait = True,
    timeout_minutes: Minutes = None,
    json: Json = False,
) -> None:
    """Process arrivals again that are held, quarantined, failed or lost; several options narrow the choice."""
    from airlock_cli import redrive as redrives  # noqa: PLC0415

    resolution = non_primary.value if non_primary else None
    choice = redrives.Choice(run, study, tuple(reason or ()), csv, resolution, findings, site)
    conf = redrives.build_redrive_conf(pipeline, choice, why)
    if dry_run:
        found = redrives.preview(pipeline, conf)
        show_result(json, found, redrives.tables(found))
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

    found = reports.find_report(pipeline, run)
    show_result(json, found, reports.tables(found))
    raise typer.Exit(reports.status(found))


@app.command()
def where(
    what: Annotated[
        str,
        typer.Argument(
            metavar="STUDY_UID|SOP_UID|KEY",
            help="A StudyInstanceUID, study_key or other subject_key, SOPInstanceUID, object key, arrival_id, or FHIR "
            "resource as Type/id.",
            show_default=False,
        ),
    ],
    json: Json = False,
) -> None:
    """Show everything that the ledger knows about a study, an instance, an object or a FHIR resource."""
    from airlock_cli import where as lookup  # noqa: PLC0415

    found = lookup.find(require_utf8("STUDY_UID|SOP_UID|KEY", what))
    show_result(json, found, lookup.tables(found))


@app.command()
def reconcile(
    pipeline: Pipeline,
    *,
    study: Annotated[
        str | None, typer.Option(help="Only this study: its study_key, or its StudyInstanceUID, which is hashed here.")
    ] = None,
    patient: Annotated[str | None, typer.Option(help="Only this patient, as Patient/<id>.")] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Only so many studies or resources, chosen at random.")
    ] = None,
    part: Annotated[
        list[Compared] | None, typer.Option(help="Compare this part only; can be repeated. [default: all three]")
    ] = None,
    content: Annotated[
        bool | None,
        typer.Option(
            "--content/--no-content",
            help="Read the content of each image set or resource. [default: only of a sample, a study or a patient]",
        ),
    ] = None,
    pixels: Annotated[
        bool,
        typer.Option("--pixels", help="Also read each uncompressed object, and compare its pixels by their checksums."),
    ] = False,
    published: Annotated[
        bool, typer.Option("--published", help="Compare what an imaging pipeline has published in HealthLake instead.")
    ] = False,
    rate: Annotated[float, typer.Option(min=0.1, max=1000, help="Most requests a second to the data store.")] = 20,
    s3_rate: Annotated[float, typer.Option(min=1, max=5000, help="Most requests a second to S3.")] = 200,
    forget_at_most: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="How many missing instances or resources no longer count as stored without a question. "
            "[default: 10,000, or 1 % of what was released if that is more]",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only estimate requests, time and cost.")] = False,
    json: Json = False,
) -> None:
    """Compare the ledger with S3 and the data store; an interrupted comparison goes on where it was."""
    from airlock_cli import reconcile as reconciliations  # noqa: PLC0415

    parts = tuple(one.value for one in part or ())
    scope = reconciliations.build_scope(
        study=study,
        patient=patient,
        sample=sample,
        parts=parts,
        content=content,
        pixels=pixels,
        published=published,
    )
    compared = reconciliations.load(pipeline, scope, published=published)
    if dry_run:
        estimated = reconciliations.estimate(compared, scope, (rate, s3_rate))
        show_result(json, estimated, reconciliations.tables_of_estimate(estimated))
        return
    expected, found = reconciliations.reconcile(compared, scope, (rate, s3_rate), forget_at_most)
    show_result(json, found | {"estimate": expected}, reconciliations.tables(found))
    raise typer.Exit(Status.WRONG if reconciliations.has_differences(found) else Status.OK)


@app.command()
def held(
    pipeline: Annotated[str | None, typer.Argument(help="Only for this pipeline.", show_default=False)] = None,
    reason: Annotated[str | None, typer.Option(help="Only with this reason code.")] = None,
    json: Json = False,
) -> None:
    """List the subjects held now and the overdue objects: since when, why, and what to do."""
    from airlock_cli import held as holds  # noqa: PLC0415

    found = holds.find_held(pipeline, reason)
    if not found["held"]:
        say(holds.describe_nothing_held(found))
    show_result(json, found, holds.tables(found))


@app.command()
def sweep(
    pipeline: Pipeline,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count and name; take nothing in.")] = False,
    take_in: Annotated[
        int | None,
        typer.Option("--take-in", min=1, max=2**63 - 1, help="Take in what the sweep of this number has named."),
    ] = None,
    why: Annotated[str | None, typer.Option(help="With --take-in: the reason, kept in the ledger.")] = None,
    json: Json = False,
) -> None:
    """Compare everything below the source with the ledger, and take in objects that no run has taken."""
    from airlock_cli import sweep as sweeps  # noqa: PLC0415

    if (take_in is None) != (why is None) or (dry_run and take_in is not None):
        raise RequestError("--take-in and --why belong together, without --dry-run.")
    if take_in is not None:
        answered = sweeps.take_in(pipeline, take_in, why or "")
        say(sweeps.describe_answer(answered))
        show_result(json, answered, [])
        return
    report = sweeps.start(pipeline, dry_run=dry_run)
    show_result(json, report, sweeps.tables(report))
    raise typer.Exit(sweeps.status(report))


@app.command()
def validate(
    files: Annotated[
        list[Path], typer.Argument(help="NDJSON files, Bundles or resources, gzip or not.", show_default=False)
    ],
    *,
    pipeline: Annotated[
        str | None,
        typer.Option(help="Ask this pipeline's HealthLake data store. [default: the only one of the pipeline files]"),
    ] = None,
    level: Annotated[
        Level,
        typer.Option(
            help="strict: the local check, then $validate; structure-only: without the profiles that resources name; "
            "minimal: only the local check, without a data store."
        ),
    ] = Level.STRICT,
    profile: Annotated[str | None, typer.Option(help="Ask about this profile, by its canonical URL.")] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="The most questions a second.")] = 20,
    outcomes: Annotated[
        Path | None, typer.Option(help="Write the OperationOutcome of each resource with an issue to this file.")
    ] = None,
    json: Json = False,
) -> None:
    """Check files of FHIR before they are delivered, and count the issues. Nothing is stored."""
    from airlock.pipelines import ValidationLevel  # noqa: PLC0415
    from airlock_cli import validate as validations  # noqa: PLC0415

    found = validations.validate(
        files,
        pipeline=pipeline,
        level=ValidationLevel(level),
        profile=profile,
        per_second=rate,
        outcomes=outcomes,
    )
    show_result(json, found, validations.tables(found))
    raise typer.Exit(validations.status(found))


@app.command("sign-off")
def sign_off(
    pipeline: Pipeline,
    *,
    sample: Annotated[str, typer.Option(help="Which documents were converted and compared.", show_default=False)],
    coverage: Annotated[
        float, typer.Option(min=0, max=1, help="The coverage of their conversion, from 0 to 1.", show_default=False)
    ],
    why: Annotated[str, typer.Option(help="What was checked; the decision log keeps it.", show_default=False)],
    json: Json = False,
) -> None:
    """Sign for the profile version that a ccda pipeline names; without it no document is converted."""
    from airlock_cli import sign_off as sign_offs  # noqa: PLC0415

    signed = sign_offs.sign(pipeline, sample, coverage, why)
    show_result(json, signed, sign_offs.tables(signed))


@pipelines_app.command("check")
def pipelines_check(
    folder: Annotated[
        Path | None,
        typer.Argument(help="The folder of the pipeline files. [default: AIRLOCK_PIPELINES]", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Read every pipeline file of a folder, and list the problems of each."""
    from airlock_cli import pipelines, settings  # noqa: PLC0415

    found = pipelines.check(folder or settings.pipelines())
    show_result(json, found, pipelines.tables(found))
    raise typer.Exit(Status.WRONG if found["problems"] else Status.OK)


@pipelines_app.command("new")
def pipelines_new(
    folder: Annotated[
        Path | None,
        typer.Argument(help="The folder of the pipeline files. [default: AIRLOCK_PIPELINES]", show_default=False),
    ] = None,
    *,
    name: Annotated[str, typer.Option(prompt="Name of the pipeline", help="Its name, also the DAG's.")],
    kind: Annotated[NewKind, typer.Option(prompt="Kind of data", help="The kind of data.")] = NewKind.IMAGING,
    stack: Annotated[
        list[str] | None,
        typer.Option(help="A stack of deploy/cloudformation, whose outputs are answers; may be given several times."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="The archive's address.")] = None,
    own: Annotated[str | None, typer.Option(help="Where Airlock writes.")] = None,
    datastore: Annotated[str | None, typer.Option(help="The data store's id.")] = None,
    role: Annotated[str | None, typer.Option(help="The role of the import jobs.")] = None,
    connection: Annotated[str | None, typer.Option(help="The Airflow connection.")] = None,
    region: Annotated[str | None, typer.Option(help="The Region.")] = None,
) -> None:
    """Ask for what a pipeline needs, and write its file with a comment for each choice."""
    from airlock_cli import new_pipeline, settings, stacks  # noqa: PLC0415

    outputs = None
    if stack:
        outputs = stacks.read_outputs(stack, region)
        datastore, role = stacks.datastore_and_role(outputs, kind.value)
        source, own, region = source or outputs["ArchiveUri"], outputs["WorkspaceUri"], outputs["Region"]
    answers = new_pipeline.Answers(
        name,
        kind.value,
        source or typer.prompt("The archive (s3://bucket/prefix/)"),
        own or typer.prompt("A place for Airlock's own files (s3://bucket/prefix/)"),
        datastore=datastore or typer.prompt("Id of the data store"),
        role=role or typer.prompt("ARN of the role that the service assumes"),
        connection=connection or typer.prompt("Airflow connection to the account", "aws_default"),
        region=region or typer.prompt("AWS Region", "us-east-1"),
        outputs=outputs,
    )
    made = new_pipeline.write(folder or settings.pipelines(), answers)
    say(f"Written: {made}. Read its comments, then switch its DAG on.")
