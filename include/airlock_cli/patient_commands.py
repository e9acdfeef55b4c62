"""The commands of ``airlock patient``: a person's studies and resources, and whose a study is."""

from __future__ import annotations

from typing import Annotated

import typer

from airlock_cli.commands import PROMPTS, Decided, Json, Number, require_utf8, show_result
from airlock_cli.show import say

patient_app = typer.Typer(help="A person's studies and resources, and whose a study is.", **PROMPTS)


@patient_app.callback()
def patient(context: typer.Context, json: Json = False) -> None:
    """List a person's studies and resources with their state; PatientID and issuer are asked for."""
    if context.invoked_subcommand is not None:
        return
    from airlock_cli import patient as patients  # noqa: PLC0415

    number = typer.prompt("PatientID (not shown)", hide_input=True, err=True)
    issuer = typer.prompt("IssuerOfPatientID (empty if it has none)", default="", show_default=False, err=True)
    found = patients.find_person(require_utf8("PatientID", number.strip(" ")), issuer.strip(" "))
    show_result(json, found, patients.tables_of_person(found))


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
    show_result(json, found, patients.tables_of_questions(found))


@patient_app.command("show")
def patient_show(number: Number, json: Json = False) -> None:
    """Show the identifiers of a question side by side; the decision log keeps who has seen them."""
    from airlock_cli import patient as patients  # noqa: PLC0415

    found = patients.show(number)
    show_result(json, found, patients.tables_of_sides(found))


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
