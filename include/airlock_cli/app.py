"""The commands and their options; the module named after a command does its work and is imported when it is called."""

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
    """A command group that turns a command's error into a message and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command, and exit with the status of its error."""
        try:
            return super().invoke(ctx)
        except CommandError as error:
            say(str(error))
            raise typer.Exit(error.status) from None
        except KeyboardInterrupt:
            say("Stopped watching. A run that was started continues in Airflow.")
            raise typer.Exit(Status.INTERRUPTED) from None


_STYLE: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None}
_PROMPTS = _STYLE | {"no_args_is_help": False, "invoke_without_command": True}
app = typer.Typer(
    cls=Commands,
    help="Query Airlock and start its runs. Exit status: 0 done; 1 a problem was found, or nothing was found; 2 the "
    "request is wrong; 3 Airflow, the ledger or S3 cannot be reached; 4 the run is not decided yet.",
    pretty_exceptions_enable=False,  # they print the values of variables, passwords included
    add_completion=False,
    **_STYLE,
)
ledger_app = typer.Typer(help="Maintain the ledger.", **_STYLE)
pipelines_app = typer.Typer(help="Check the pipeline files, or write one.", **_STYLE)
patient_app = typer.Typer(help="A person's studies and resources, and whose a study is.", **_PROMPTS)
review_app = typer.Typer(help="Questions to people about what is held, and their answers.", **_STYLE)
app.add_typer(ledger_app, name="ledger")
app.add_typer(pipelines_app, name="pipelines")
app.add_typer(patient_app, name="patient")
app.add_typer(review_app, name="review")


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


Pipeline = Annotated[str, typer.Argument(help="The pipeline's name.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
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
        _print(json, measured, impacts.tables(measured))
        return
    conf = runs.build_run_conf(pipeline, prefix, window_start, window_end) | {"plan_only": True}
    if wait:
        workspaces.load_named_pipeline(pipeline)  # the plan is read from its workspace: fail before the run starts
    started = runs.start(pipeline, conf, wait=wait, minutes=timeout_minutes)
    if not wait:
        _print(json, started.as_json(), [started.table()])
        return
    runs.require_success(started)
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
    _print(json, started.as_json() | {"report": found}, shown)
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

    found = reports.find_report(pipeline, run)
    _print(json, found, reports.tables(found))
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

    found = lookup.find(_require_utf8("STUDY_UID|SOP_UID|KEY", what))
    _print(json, found, lookup.tables(found))


def _require_utf8(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(f"{name} is not UTF-8, but all keys and UIDs are. Copy it from the report.") from None
    return text


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
        _print(json, estimated, reconciliations.tables_of_estimate(estimated))
        return
    expected, found = reconciliations.reconcile(compared, scope, (rate, s3_rate), forget_at_most)
    _print(json, found | {"estimate": expected}, reconciliations.tables(found))
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
    _print(json, found, holds.tables(found))


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
        _print(json, answered, [])
        return
    report = sweeps.start(pipeline, dry_run=dry_run)
    _print(json, report, sweeps.tables(report))
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
    _print(json, found, validations.tables(found))
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
    _print(json, signed, sign_offs.tables(signed))


@patient_app.callback()
def patient(context: typer.Context, json: Json = False) -> None:
    """List a person's studies and resources with their state; PatientID and issuer are asked for."""
    if context.invoked_subcommand is not None:
        return
    from airlock_cli import patient as patients  # noqa: PLC0415

    number = typer.prompt("PatientID (not shown)", hide_input=True, err=True)
    issuer = typer.prompt("IssuerOfPatientID (empty if it has none)", default="", show_default=False, err=True)
    found = patients.find_person(_require_utf8("PatientID", number.strip(" ")), issuer.strip(" "))
    _print(json, found, patients.tables_of_person(found))


@patient_app.command("questions")
def patient_questions(
    pipeline: Annotated[str | None, typer.Argument(help="Only of this pipeline.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """List the open questions about whose a study is; no identifiers are shown."""
    from airlock_cli import patient as patients  # noqa: PLC0415

    found = patients.describe_questions(patients.find_questions(pipeline))
    if not found["questions"]:
        say("There is no open question.")
        return
    _print(json, found, patients.tables_of_questions(found))


Number = Annotated[int, typer.Argument(help="The question's number.", min=1, show_default=False)]
Decided = Annotated[str, typer.Option(help="The reason, kept in the decision log.", show_default=False)]


@patient_app.command("show")
def patient_show(number: Number, json: Json = False) -> None:
    """Show the identifiers of a question side by side; the decision log keeps who has seen them."""
    from airlock_cli import patient as patients  # noqa: PLC0415

    found = patients.show(number)
    _print(json, found, patients.tables_of_sides(found))


@patient_app.command("answer")
def patient_answer(
    number: Number,
    *,
    patient: Annotated[
        str,
        typer.Option(help="One of the question's Patients, as Patient/<id>; own if it is none.", show_default=False),
    ],
    why: Decided,
) -> None:
    """Decide whose the studies of a question are; the next run publishes them so."""
    from airlock_cli import patient as patients  # noqa: PLC0415

    say(patients.answer(number, patient, why))


@patient_app.command("split")
def patient_split(
    *,
    study: Annotated[str, typer.Option(help="The study: its study_key, or its StudyInstanceUID.", show_default=False)],
    why: Decided,
) -> None:
    """Revoke the match of a study with an existing Patient; the next run publishes it with one of its own."""
    from airlock_cli import patient as patients  # noqa: PLC0415

    say(patients.split(study, why))


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
    _print(json, found, reviews.tables(found))


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
        _print(json, opened, lookup.tables(opened))
        return
    found = reviews.show(number)
    _print(json, found, reviews.tables_of_one(found))


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
    _print(json, found, reviews.tables(found))


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
    _print(json, found, pipelines.tables(found))
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
    source: Annotated[
        str, typer.Option(prompt="The archive (s3://bucket/prefix/)", help="The archive's address.", show_default=False)
    ],
    own: Annotated[
        str,
        typer.Option(prompt="A place for Airlock's own files (s3://bucket/prefix/)", help="Where Airlock writes."),
    ],
    datastore: Annotated[str, typer.Option(prompt="Id of the data store", help="The data store's id.")],
    role: Annotated[
        str, typer.Option(prompt="ARN of the role that the service assumes", help="The role of the import jobs.")
    ],
    connection: Annotated[
        str, typer.Option(prompt="Airflow connection to the account", help="The Airflow connection.")
    ] = "aws_default",
    region: Annotated[str, typer.Option(prompt="AWS Region", help="The Region.")] = "us-east-1",
) -> None:
    """Ask for what a pipeline needs, and write its file with a comment for each choice."""
    from airlock_cli import new_pipeline, settings  # noqa: PLC0415

    answers = new_pipeline.Answers(name, kind.value, source, own, connection, region, datastore, role)
    made = new_pipeline.write(folder or settings.pipelines(), answers)
    say(f"Written: {made}. Read its comments, then switch its DAG on.")


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
    _print(json, found, adopt.tables(found))


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
    _print(json, found.to_json(), ledgers.rebuilt_tables(found))
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
        str | None, typer.Option(help="With --match-again: only what this run released (run key or run id).")
    ] = None,
) -> None:
    """Have the next run send again the messages that destinations did not accept."""
    from airlock_cli import ledgers  # noqa: PLC0415

    if match_again and destination is not None:
        raise RequestError("--match-again matches with all routes. Omit --destination.")
    if run is not None and not match_again:
        raise RequestError("--run limits --match-again. Add it, or omit --run.")
    say(ledgers.match_again(pipeline, run) if match_again else ledgers.requeue(pipeline, destination))
