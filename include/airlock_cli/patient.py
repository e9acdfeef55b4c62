"""``airlock patient``: a person's studies and resources, and the questions about whose a study is.

Identifiers are typed at a prompt, so that no shell history has them. Who was shown identifiers is in the decision log.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airlock.pipelines import ClinicalPipeline, ImagingPipeline
from airlock_cli import workspaces
from airlock_cli.caller import find_caller
from airlock_cli.errors import RequestError, WrongError
from airlock_cli.ledgers import open_ledger
from airlock_cli.show import Table
from airlock_cli.stores import connect_fhir, translate_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.clinical.fhir_store import FhirStore
    from airlock.imaging.contracts import StudyContract
    from airlock.imaging.matching import Matched, Matcher
    from airlock.ledger import IdentityAnswer, Ledger
    from airlock.pipelines import HealthLake
    from airlock.storage.s3 import S3

SCHEMA = "airlock.patient/1"
OWN = "own"  # the answer: none of the data store's Patients
_ADVICE = "Check your AWS credentials, and the region of the pipeline's HealthLake data store."


@dataclass(frozen=True)
class Question:
    """An open question: the studies of one identity about which a person sees the same."""

    number: int
    pipeline: str
    datastore_id: str
    reason: str
    seen: str
    asked_at: datetime
    studies: tuple[str, ...]  # StudyInstanceUIDs
    study_keys: tuple[str, ...]
    identity: str
    among: tuple[str, ...]  # Patient/<id>
    orders: tuple[str, ...]  # ServiceRequest/<id>
    side: str | None = None  # of the studies


def find_questions(pipeline: str | None) -> list[Question]:
    """Return the open questions, the oldest first."""
    with open_ledger() as ledger:
        return _read_questions(ledger, pipeline)


def _read_questions(ledger: Ledger, pipeline: str | None = None) -> list[Question]:
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in ledger.identity_questions(pipeline=pipeline).iter_rows(named=True):
        identity = json.loads(row["question"])["identity"]
        groups.setdefault((row["pipeline"], row["reason"], row["seen"], identity), []).append(row)
    return [_make_question(rows) for rows in groups.values()]


def _make_question(rows: list[dict[str, Any]]) -> Question:
    first, asked = rows[0], json.loads(rows[0]["question"])
    return Question(
        number=first["id"],
        **{name: first[name] for name in ("pipeline", "datastore_id", "reason", "seen", "asked_at")},
        studies=tuple(row["subject"] for row in rows),
        study_keys=tuple(row["subject_key"] for row in rows),
        identity=asked["identity"],
        among=tuple(asked["among"]),
        orders=tuple(asked["orders"]),
        side=asked.get("side"),
    )


def describe_questions(questions: Iterable[Question]) -> dict[str, Any]:
    """Return open questions, schema `SCHEMA`; without identifiers."""
    from airlock.imaging.patient_match import ASKED  # noqa: PLC0415  # polars is slow to import

    rows = [
        {
            "number": one.number,
            "since": one.asked_at,
            "pipeline": one.pipeline,
            "reason": one.reason,
            "what_it_means": ASKED.get(one.reason),
            "studies": len(one.studies),
            "study_keys": list(one.study_keys),
            "patients": len(one.among),
        }
        for one in questions
    ]
    return {"schema": SCHEMA, "questions": rows}


def tables_of_questions(found: dict[str, Any]) -> Iterator[Table]:
    """Yield the table of a result of `describe_questions`."""
    names = ("number", "since", "pipeline", "reason", "what_it_means", "studies", "patients")
    rows = [[row[name] for name in names] for row in found["questions"]]
    yield Table(f"open questions: {len(rows)}", names, rows)


def show(number: int) -> dict[str, Any]:
    """Return what a person needs to answer a question, side by side; it is noted that they have seen it.

    Raises
    ------
    WrongError
        If there is no such open question.
    """
    with open_ledger() as ledger:
        question = _need_question(ledger, number)
        pipeline = _load(question.pipeline)
        contracts = _read_contracts(ledger, pipeline, question.studies)
        with _open_fhir(pipeline.healthlake) as store:
            patients = store.read_all([*question.among, *question.orders])
        note = f"airlock patient show: {question.reason}"
        _reveal(ledger, pipeline, question.datastore_id, question.study_keys[0], note)
    sides = [_describe_study(one) for one in contracts]
    sides += [_describe_patient(name, patients[name]) for name in question.among]
    sides += [_describe_order(name, patients[name]) for name in question.orders]
    return {"schema": SCHEMA, "number": number, "reason": question.reason, "sides": sides}


def tables_of_sides(found: dict[str, Any]) -> Iterator[Table]:
    """Yield the table of a result of `show`: one column for each study and Patient."""
    sides = found["sides"]
    rows = [(name, *(side[name] for side in sides)) for name in sides[0]] if sides else []
    yield Table(f"question {found['number']}: {found['reason']}", ("", *("" for _ in sides)), rows)


_SIDES = ("what", "identifiers", "name", "birth date", "sex", "more")


def _describe_study(contract: StudyContract) -> dict[str, Any]:
    number = f"{contract.IssuerOfPatientID or '(no issuer)'} | {contract.PatientID or ''}"
    more = f"study of {contract.StudyDate or 'no date'}, accession {contract.AccessionNumber or 'none'}"
    values = (f"study {contract.study_key}", number, contract.PatientName, contract.PatientBirthDate)
    return dict(zip(_SIDES, (*values, contract.PatientSex, more), strict=True))


def _describe_patient(name: str, patient: dict[str, Any] | None) -> dict[str, Any]:
    if patient is None:
        return dict.fromkeys(_SIDES) | {"what": name, "more": "not in the data store any more"}
    from airlock.imaging.patient_match import list_elements, list_replacements  # noqa: PLC0415  # polars is slow

    numbers = [_describe_identifier(one) for one in list_elements(patient, "identifier")]
    names = [_join_name(one) for one in list_elements(patient, "name")]
    replaced = [f"replaced by {other}" for other in list_replacements(patient)]
    more = [*replaced, *(["not active"] if patient.get("active") is False else [])]
    values = (name, numbers, names, patient.get("birthDate"), patient.get("gender"), more)
    return dict(zip(_SIDES, values, strict=True))


def _describe_identifier(identifier: dict[str, Any]) -> str:
    """Return an identifier with what says that it is no longer the Patient's."""
    period = identifier.get("period")
    end = period.get("end") if isinstance(period, dict) else None
    notes = ["old"] if identifier.get("use") == "old" else []
    notes += [f"until {end}"] if end else []
    number = f"{identifier.get('system', '')} | {identifier.get('value', '')}"
    return f"{number} ({', '.join(notes)})" if notes else number


def _join_name(name: dict[str, Any]) -> str:
    given = name.get("given")
    parts = [*(given if isinstance(given, list) else []), name.get("family")]
    found = " ".join(part for part in parts if isinstance(part, str))
    return found or str(name.get("text") or "")


def _describe_order(name: str, order: dict[str, Any] | None) -> dict[str, Any]:
    from airlock.imaging.matching import read_subject  # noqa: PLC0415  # polars is slow to import

    whose = "not in the data store any more" if order is None else f"order of {read_subject(order) or 'nobody'}"
    return dict.fromkeys(_SIDES) | {"what": name, "more": whose}


def answer(number: int, patient: str, why: str) -> str:
    """Record whose the studies of a question are, and return the message for the user.

    Parameters
    ----------
    number
        Of the question.
    patient
        ``Patient/<id>``, or `OWN`.
    why
        The reason.

    Raises
    ------
    RequestError
        If there is no reason, or the Patient is not one of the question's, or is not active.
    WrongError
        If there is no such open question.
    """
    with open_ledger() as ledger:
        question = _need_question(ledger, number)
        if patient != OWN and patient not in question.among:
            raise RequestError(
                f"--patient is not one of question {number}'s. Choose one that airlock patient show {number} names, "
                f"or {OWN} if it is none of them."
            )
        chosen = None if patient == OWN else patient
        pipeline = _load(question.pipeline)
        if chosen is not None:
            _need_active(pipeline, chosen)
        published = [one.fhir for one in _read_contracts(ledger, pipeline, question.studies)]
        decided = _decide(question, chosen, {one.Patient for one in published if one is not None}, why)
        with workspaces.open_s3(pipeline) as s3:
            closed = _record(s3, ledger, pipeline, question.datastore_id, decided)
    return f"{closed} studies are answered. The next run of pipeline {question.pipeline} publishes them so."


def _need_active(pipeline: ImagingPipeline, patient: str) -> None:
    """Refuse a Patient that is not in the data store any more, or is not active.

    Raises
    ------
    RequestError
        With what to choose instead.
    """
    with _open_fhir(pipeline.healthlake) as store:
        found = store.read_all([patient])[patient]
    if found is None or found.get("active") is False:
        why = "is not active" if found else "is not in the data store any more"
        raise RequestError(f"The chosen Patient {why}. Choose another one, or {OWN}, or have the EHR correct it first.")


def split(study: str, why: str) -> str:
    """Revoke the match of a study's patient with an existing Patient, and return the message for the user.

    The studies of the same identity that are matched by the same facts go with it.

    Raises
    ------
    RequestError
        If there is no reason.
    WrongError
        If the ledger has no such study, or it is not matched with an existing Patient.
    """
    _need_reason(why)
    with ExitStack() as stack:
        ledger = stack.enter_context(open_ledger())
        contract = _find_contract(ledger, study)
        was = contract.patient_match.patient if contract.patient_match is not None else None
        if was is None:
            raise WrongError(f"Study {contract.study_key} has a Patient of Airlock's own. There is nothing to split.")
        pipeline = _load(contract.pipeline)
        s3 = stack.enter_context(workspaces.open_s3(pipeline))
        lake = _healthlake_of(pipeline)
        with _open_fhir(lake) as store:
            matched = _match_identity(_matcher(pipeline, ledger, s3, store), contract, was)
        decisions: dict[str, list[Matched]] = {}
        for one in matched:
            if one.match.patient == was:
                decisions.setdefault(one.match.seen, []).append(one)
        if not decisions:
            raise WrongError(
                f"The rules say something else of study {contract.study_key} by now. Let the pipeline run, then look "
                f"at airlock patient questions."
            )
        for seen, alike in decisions.items():
            about = (0, pipeline.name, lake.datastore_id, "split", seen, datetime.now(UTC))
            uids = tuple(one.head.contract.StudyInstanceUID for one in alike)
            identity, side = alike[0].identity, alike[0].match.side
            about_split = Question(*about, uids, study_keys=(), identity=identity, among=(), orders=(), side=side)
            decided = _decide(about_split, None, {was}, why)
            _record(s3, ledger, pipeline, lake.datastore_id, decided)
    return (
        f"{len(matched)} studies no longer belong to that Patient. The next run of pipeline {pipeline.name} publishes "
        f"them with a Patient of their own."
    )


def find_person(number: str, issuer: str) -> dict[str, Any]:
    """Return the studies and resources of a PatientID and its issuer, schema `SCHEMA`.

    Where no pipeline maps the issuer to a system, each Patient that has the number in any system is listed.

    Raises
    ------
    WrongError
        If neither the ledger nor a data store knows the number.
    """
    from airlock.imaging.fhir.identifiers import identity_id  # noqa: PLC0415  # polars is slow to import
    from airlock.imaging.matching import escape_token  # noqa: PLC0415

    own = f"Patient/{identity_id(issuer or None, number)}"
    known = list(workspaces.load_all_pipelines().values())
    lakes = {lake.datastore_id: (one, lake) for one in known if (lake := _lake_or_none(one)) is not None}
    systems = _list_systems(known, issuer)
    persons: set[tuple[str, str]] = set()
    with open_ledger() as ledger:
        for datastore_id, (pipeline, lake) in lakes.items():
            persons |= {(datastore_id, name) for name in {own, *_persons_of(ledger, datastore_id, own)}}
            with _open_fhir(lake) as store:
                for system in sorted(systems.get(datastore_id, ())) or [""]:
                    asked = f"{escape_token(system)}|{escape_token(number)}" if system else escape_token(number)
                    found = store.search("Patient", {"identifier": asked, "_count": "100"})
                    persons |= {(datastore_id, f"Patient/{one['id']}") for one in found}
            _reveal(ledger, pipeline, datastore_id, own.removeprefix("Patient/")[:16], "airlock patient")
        rows = [_describe_person(ledger, *person) for person in sorted(persons)]
    rows = [row for row in rows if row["studies"] or row["resources"] or row["patient"] != own]
    if not rows:
        raise WrongError("Neither the ledger nor a HealthLake data store of the pipelines knows this number.")
    return {"schema": SCHEMA, "persons": rows}


def _list_systems(pipelines: Iterable[Any], issuer: str) -> dict[str, set[str]]:
    """Return the systems of an issuer's numbers by HealthLake data store, as the pipelines that publish there say."""
    found: dict[str, set[str]] = {}
    for one in pipelines:
        if isinstance(one, ImagingPipeline) and one.healthlake is not None and issuer in one.publish.issuer_systems:
            found.setdefault(one.healthlake.datastore_id, set()).add(one.publish.issuer_systems[issuer])
    return found


def _persons_of(ledger: Ledger, datastore_id: str, own: str) -> set[str]:
    import polars as pl  # noqa: PLC0415

    return ledger.persons_of(datastore_id, pl.Series([own]))


def _describe_person(ledger: Ledger, datastore_id: str, name: str) -> dict[str, Any]:
    """Return the studies that are published for a Patient of a data store, and its resources, with their state."""
    import polars as pl  # noqa: PLC0415  # slow to import

    studies = ledger.studies_of_patients(pl.Series([name])).filter(pl.col("healthlake") == datastore_id)
    there = ledger.where(name)
    resources = [json.loads(text) for text in there.contracts["contract"]]
    return {
        "patient": name,
        "datastore_id": datastore_id,
        "studies": studies.to_dicts(),
        "resources": [
            {"pipeline": one["pipeline"], "revision": one["revision"], "completeness": one.get("completeness")}
            for one in resources
            if one["datastore_id"] == datastore_id
        ],
    }


def tables_of_person(found: dict[str, Any]) -> Iterator[Table]:
    """Yield the tables of a result of `find_person`."""
    for one in found["persons"]:
        names = ("study_key", "revision", "is_released", "outcome", "pipeline", "datastore_id")
        rows = [[row[name] for name in names] for row in one["studies"]]
        yield Table(f"studies of {one['patient']} in {one['datastore_id']}", names, rows)
        counts = [
            (row["pipeline"], row["revision"], kind, *(_count(row, state, kind) for state in _STATES))
            for row in one["resources"]
            for kind in sorted((row["completeness"] or {}).get("known", {}))
        ]
        title = f"resources of {one['patient']} in {one['datastore_id']}"
        yield Table(title, ("pipeline", "revision", "type", *_STATES), counts)


_STATES = ("released", "waiting", "quarantined", "parked")


def _count(row: dict[str, Any], state: str, kind: str) -> int:
    return int(row["completeness"].get(state, {}).get(kind, 0))


def _decide(question: Question, patient: str | None, was: Iterable[str], why: str) -> IdentityAnswer:
    """Return a decision of this person about the studies of a question."""
    from airlock.ledger import IdentityAnswer  # noqa: PLC0415  # polars is slow to import

    return IdentityAnswer(
        identity=question.identity,
        seen=question.seen,
        patient=patient,
        was=tuple(sorted(was)),
        reason=question.reason,
        decided_by=find_caller(),
        why=_need_reason(why),
        decided_at=datetime.now(UTC),
        studies=question.studies,
        side=question.side,
    )


def _need_reason(why: str) -> str:
    if not why.strip():
        raise RequestError("--why is empty. Give a reason: the decision log keeps it.")
    return why.strip()


def _record(s3: S3, ledger: Ledger, pipeline: ImagingPipeline, datastore_id: str, decided: IdentityAnswer) -> int:
    from airlock.ledger.identities import scope  # noqa: PLC0415  # polars is slow to import
    from airlock.stages.decision_log import decide  # noqa: PLC0415

    def record(inner: Ledger) -> int:
        return inner.answer_identity(pipeline.name, datastore_id, decided)

    return decide(s3, pipeline, ledger, record, scope(datastore_id))


def _reveal(ledger: Ledger, pipeline: Any, datastore_id: str, subject_key: str, why: str) -> None:
    """Note in the decision log that this person has seen identifiers, before they see them."""
    from airlock.ledger.identities import scope  # noqa: PLC0415  # polars is slow to import
    from airlock.stages.decision_log import decide  # noqa: PLC0415

    person = find_caller()

    def record(inner: Ledger) -> None:
        inner.record_reveal(pipeline.name, datastore_id, subject_key, person=person, why=why)

    with workspaces.open_s3(pipeline) as s3:
        decide(s3, pipeline, ledger, record, scope(datastore_id))


def _need_question(ledger: Ledger, number: int) -> Question:
    found = next((one for one in _read_questions(ledger) if one.number == number), None)
    if found is None:
        raise WrongError(f"There is no open question {number}. List them: airlock patient questions")
    return found


def _load(name: str) -> ImagingPipeline:
    found = workspaces.load_named_pipeline(name)
    if not isinstance(found, ImagingPipeline) or found.healthlake is None:
        raise RequestError(f"Pipeline {name!r} publishes no studies, so it has no questions about patients.")
    return found


def _healthlake_of(pipeline: ImagingPipeline) -> HealthLake:
    assert pipeline.healthlake is not None  # noqa: S101  # `_load` has asked
    return pipeline.healthlake


def _lake_or_none(pipeline: Any) -> HealthLake | None:
    return pipeline.healthlake if isinstance(pipeline, ImagingPipeline | ClinicalPipeline) else None


@contextmanager
def _open_fhir(lake: HealthLake | None) -> Iterator[FhirStore]:
    from boto3 import Session  # noqa: PLC0415  # slow to import

    from airlock.storage.requests import RequestMeter  # noqa: PLC0415

    assert lake is not None  # noqa: S101  # `_load` has asked
    with translate_errors(_ADVICE):
        yield connect_fhir(Session(), lake.datastore_id, RequestMeter(), region_name=lake.region_name)


def _read_contracts(ledger: Ledger, pipeline: ImagingPipeline, studies: Iterable[str]) -> list[StudyContract]:
    import polars as pl  # noqa: PLC0415  # slow to import

    from airlock.imaging.contracts import StudyContract  # noqa: PLC0415

    rows = ledger.contracts(pipeline.datastore_id, pl.Series(sorted(studies), dtype=pl.String))
    return [StudyContract.model_validate_json(text) for text in rows["contract"]]


def _find_contract(ledger: Ledger, study: str) -> StudyContract:
    from airlock.imaging.contracts import StudyContract  # noqa: PLC0415  # polars is slow to import

    found = [text for text in ledger.where(study).contracts["contract"] if '"airlock.study/1"' in text]
    if not found:
        raise WrongError("The ledger has no such study. Give its study_key or StudyInstanceUID, as airlock where does.")
    return StudyContract.model_validate_json(found[-1])


def _matcher(pipeline: ImagingPipeline, ledger: Ledger, s3: S3, store: FhirStore) -> Matcher:
    from airlock.imaging.matching import Matcher  # noqa: PLC0415  # polars is slow to import
    from airlock.run import Run  # noqa: PLC0415
    from airlock.storage.s3uri import S3Uri  # noqa: PLC0415

    located = pipeline.in_region(pipeline.healthimaging.region_name or pipeline.publish.dicomweb_region or store.region)
    return Matcher.of(Run(located, "airlock patient", None, S3Uri.parse(pipeline.source.uri), s3, ledger), store)


def _match_identity(matcher: Matcher, contract: StudyContract, was: str) -> list[Matched]:
    """Return what the rules say now of the studies of the same identity that have the same Patient."""
    import polars as pl  # noqa: PLC0415  # slow to import

    from airlock.imaging.matching import parse_heads, read_heads  # noqa: PLC0415

    rows = matcher.run.ledger.contracts_of_patients(contract.datastore_id, pl.Series([was]))
    heads = read_heads(rows, matcher.settings)
    named = pl.col("head").str.json_path_match("$.StudyInstanceUID") == contract.StudyInstanceUID
    same = heads.filter(named)["patient"].implode()
    return [
        one
        for chunk in parse_heads(matcher.run, heads.filter(pl.col("patient").is_in(same)))
        for one in matcher.match(chunk)
    ]
