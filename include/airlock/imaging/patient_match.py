"""Whose study it is: the decision, from what the study and the Patients of the data store say. It reads nothing itself.

The result is a function of the present facts alone, so it does not depend on the order in which they came. Two people
in one chart may be harmed, one person in two charts can be corrected: whatever is in doubt is not a match.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airlock.imaging.fhir.values import day, exact, gender
from airlock.records import digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date

_WHOLE_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_BETWEEN_WORDS = re.compile(r"[\W_]+")
_SHORTEST = 2  # letters of a component that counts; an initial does not
_NAME_PARTS = 3  # of PN: family, given, middle; a prefix or suffix names nobody
# Components that name nobody, so that two unknown patients do not share a name.
_NO_NAMES = frozenset((
    "anonymous", "baby", "boy", "child", "demo", "doe", "dummy", "emergency", "female", "girl", "infant", "male", "man",
    "mother", "newborn", "noname", "none", "patient", "phantom", "sample", "son", "daughter", "test", "trauma",
    "unbekannt", "unidentified", "unknown", "woman",
    # particles and titles, which many families share
    "abu", "al", "ben", "bin", "bint", "da", "das", "de", "del", "della", "den", "der", "di", "dos", "dr", "du", "el",
    "frau", "herr", "ibn", "jr", "la", "le", "los", "mc", "mr", "mrs", "ms", "prof", "san", "sr", "st", "ten", "ter",
    "van", "vom", "von", "zu", "zum", "zur",
))  # fmt: skip
# An absolute address is read as one of this data store: EHRs export with theirs, and an id is kept when it is imported.
_PATIENT = re.compile(r"(?:https?://.+/)?(Patient/[A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?")


class Outcome(StrEnum):
    """What is known about the Patient of a study."""

    MATCHED = "matched"  # exactly one Patient has the identifier, and nothing speaks against it
    NONE = "none"  # no Patient has it
    AMBIGUOUS = "ambiguous"  # several have it, or what a person decided on has changed
    UNGUARDED = "unguarded"  # one has it, but birth date, sex and name do not confirm it
    CONTRADICTED = "contradicted"  # the order is another Patient's


class Question(StrEnum):
    """What a person is asked about a study's Patient."""

    AMBIGUOUS = "patient_ambiguous"
    UNGUARDED = "patient_unguarded"
    CONTRADICTED = "patient_contradicted"
    MERGED = "patient_merged"  # the Patient was replaced by another one: should the study follow?
    CHANGED = "patient_changed"  # a person decided, and what they saw has changed


class Means(StrEnum):
    """By what a Patient was found."""

    IDENTIFIER = "identifier"
    CROSSWALK = "crosswalk"
    PERSON = "person"


Key = tuple[str, str]  # Identifier.system and Identifier.value


@dataclass(frozen=True)
class Identity:
    """What a study's header says of its patient.

    Attributes
    ----------
    keys
        The identifiers by which the Patient is looked for; none if PatientID names nobody or has no mapped system.
    is_crossed
        Whether a crosswalk has replaced the header's number.
    birth_date
        None if it is absent, impossible or a placeholder.
    """

    keys: tuple[Key, ...] = ()
    is_crossed: bool = False
    birth_date: str | None = None
    sex: str | None = None
    names: frozenset[str] = frozenset()
    study_date: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A Patient of the data store that Airlock has not made.

    Attributes
    ----------
    reference
        ``Patient/<id>``.
    keys
        Its active identifiers.
    former_keys
        Those that it has no longer.
    birth_date
        As FHIR has it, which may be a year or a month; None if it is absent or a placeholder.
    replaced_by
        The Patients that replace it, by Patient.link.
    """

    reference: str
    keys: frozenset[Key]
    birth_date: str | None = None
    sex: str | None = None
    names: frozenset[str] = frozenset()
    is_active: bool = True
    replaced_by: frozenset[str] = frozenset()
    former_keys: frozenset[Key] = frozenset()


@dataclass(frozen=True)
class Order:
    """An order with the study's AccessionNumber, of its site and time, that Airlock has not made."""

    reference: str  # ServiceRequest/<id>
    subject: str  # Patient/<id>


@dataclass(frozen=True)
class Answer:
    """A person's decision on an identity."""

    seen: str  # digest of what the person saw
    patient: str | None  # Patient/<id>; None: none of the data store's Patients
    studies: frozenset[str] = frozenset()  # StudyInstanceUIDs of those that it was about; empty: all of the identity
    side: str | None = None  # `digest_side` of these


@dataclass(frozen=True)
class Facts:
    """Everything that decides on one study.

    Attributes
    ----------
    candidates
        The Patients that have one of the study's keys, those that replace them, and the subjects of the study's orders,
        each once.
    answers
        People's decisions on this identity that were not revoked, the earliest first.
    today
        In the pipeline's time; a study of a later day has a wrong date, and confirms nothing.
    study
        The study, of which earlier answers may have been.
    """

    identity: Identity
    candidates: Sequence[Candidate] = ()
    orders: Sequence[Order] = ()
    answers: Sequence[Answer] = ()
    today: date | None = None
    study: str | None = None  # StudyInstanceUID


@dataclass(frozen=True)
class Match:
    """The decision.

    Attributes
    ----------
    patient
        The existing Patient of the study; None if it gets a Patient of Airlock's own.
    order
        The order of the study, if there is exactly one and it is this Patient's.
    seen
        Digest of what was seen, to which a person's decision is bound.
    among
        The Patients that a person is asked about.
    orders
        All orders of the study.
    side
        Digest of what is the study's own of what was seen.
    """

    outcome: Outcome
    seen: str
    patient: str | None = None
    means: Means | None = None
    question: Question | None = None
    order: str | None = None
    among: tuple[str, ...] = ()
    orders: tuple[str, ...] = ()
    side: str | None = None


def match_patient(facts: Facts) -> Match:
    """Decide whose study it is."""
    orders_found = tuple(sorted(one.reference for one in facts.orders))
    found = replace(_decide(facts, digest_seen(facts)), orders=orders_found, side=digest_side(facts))
    if found.patient is None:
        return found
    orders = [one.reference for one in facts.orders if one.subject == found.patient]
    return found if len(orders) != 1 else replace(found, order=orders[0])


def _decide(facts: Facts, seen: str) -> Match:
    found = replace(_match_automatically(facts), seen=seen)
    answers = _list_answers(facts, seen)
    if not answers:
        return found
    exact_answer = next((one for one in reversed(answers) if one.seen == seen), None)
    last = answers[-1]  # if it is about other facts, it may still have revoked what was answered before
    if exact_answer is not None and exact_answer.patient == last.patient:
        outcome = Outcome.MATCHED if exact_answer.patient else Outcome.NONE
        return Match(outcome, seen, exact_answer.patient, Means.PERSON)
    if exact_answer is None and (found.outcome is Outcome.CONTRADICTED or found.patient == last.patient):
        return found
    # A person has decided on other facts. Nothing moves the study to somebody else before they are asked again.
    among = tuple(sorted(one.reference for one in facts.candidates))
    return Match(Outcome.AMBIGUOUS, seen, question=Question.CHANGED, among=among)


def _list_answers(facts: Facts, seen: str) -> list[Answer]:
    """Return the answers that say something of this study, since one study of a number may be somebody else's.

    They are those on what is seen now, on this study or one that was answered with it, and on studies that look the
    same from their own side.
    """
    together = {facts.study}.union(*(one.studies for one in facts.answers if one.seen == seen))
    side = digest_side(facts)
    return [
        one
        for one in facts.answers
        if not one.studies or one.seen == seen or one.side == side or not together.isdisjoint(one.studies)
    ]


def _match_automatically(facts: Facts) -> Match:
    carriers = [one for one in facts.candidates if one.keys & set(facts.identity.keys)]
    among = tuple(sorted({one.reference for one in facts.candidates}))
    doubt = Match(Outcome.AMBIGUOUS, "", question=Question.AMBIGUOUS, among=among)
    if _is_contradicted(facts, carriers):
        return Match(Outcome.CONTRADICTED, "", question=Question.CONTRADICTED, among=among)
    if not carriers:
        return doubt if _has_former_number(facts) else Match(Outcome.NONE, "")
    one = _find_single(carriers)
    if one is None:
        return doubt
    if not _is_guarded(facts, one):
        return Match(Outcome.UNGUARDED, "", question=Question.UNGUARDED, among=among)
    means = Means.CROSSWALK if facts.identity.is_crossed else Means.IDENTIFIER
    merged = Question.MERGED if one.replaced_by else None
    return Match(Outcome.MATCHED, "", one.reference, means, merged, among=among)


def _is_contradicted(facts: Facts, carriers: Sequence[Candidate]) -> bool:
    """Return whether an order is of another Patient than the identifiers say.

    Where they find nobody, an order contradicts them if its Patient has another number of the same system. If its
    Patient has none, the order says nothing: an order alone makes no match. The order of a Patient that has replaced
    the one with the number, by one merge after another, agrees with it.
    """
    subjects = {one.subject for one in facts.orders}
    if carriers:
        return not subjects <= _list_survivors(facts, carriers)
    systems = {system for system, _ in facts.identity.keys}
    others = (one for one in _list_ordered(facts) if one.former_keys.isdisjoint(facts.identity.keys))
    return any(system in systems for one in others for system, _ in one.keys)


def _list_survivors(facts: Facts, carriers: Sequence[Candidate]) -> set[str]:
    """Return the names of Patients and of all that have replaced them, directly or through others."""
    replaced_by = {one.reference: one.replaced_by for one in facts.candidates}
    found: set[str] = set()
    ahead = {one.reference for one in carriers}
    while ahead:
        found |= ahead
        ahead = {name for one in ahead for name in replaced_by.get(one, ())} - found
    return found


def _list_ordered(facts: Facts) -> list[Candidate]:
    """Return the Patients that the study's orders are of."""
    subjects = {one.subject for one in facts.orders}
    return [one for one in facts.candidates if one.reference in subjects]


def _has_former_number(facts: Facts) -> bool:
    """Return whether the order is of a Patient that had the study's number before: it may be theirs."""
    return any(not one.former_keys.isdisjoint(facts.identity.keys) for one in _list_ordered(facts))


def _find_single(carriers: Sequence[Candidate]) -> Candidate | None:
    """Return the one Patient that has the identifier; None if that is in doubt.

    Of a Patient and those that replace it, it is the replaced one: a merge is not followed by itself.
    """
    replaced = [one for one in carriers if one.replaced_by]
    if len(replaced) == 1:
        others = {one.reference for one in carriers} - {replaced[0].reference}
        return replaced[0] if others <= replaced[0].replaced_by else None
    only = carriers[0] if len(carriers) == 1 else None
    return only if only is not None and only.is_active else None


def _is_guarded(facts: Facts, patient: Candidate) -> bool:
    """Return whether birth dates agree; where one is absent, whether sex agrees and the names share a component."""
    study = facts.identity
    if not _is_plausible(facts) or not _is_born(facts, patient):
        return False
    if study.birth_date and patient.birth_date:
        if _WHOLE_DAY.fullmatch(patient.birth_date):
            return study.birth_date == patient.birth_date
        if not study.birth_date.startswith(f"{patient.birth_date}-"):  # of a year or a month
            return False
    is_same_sex = study.sex is not None and study.sex == patient.sex
    return is_same_sex and not study.names.isdisjoint(patient.names)


def _is_plausible(facts: Facts) -> bool:
    """Return whether the study is after the patient's birth and not in the future."""
    taken, born = facts.identity.study_date, facts.identity.birth_date
    if taken is None:
        return True
    return (born is None or born <= taken) and (facts.today is None or taken <= facts.today.isoformat())


def _is_born(facts: Facts, patient: Candidate) -> bool:
    """Return whether a Patient may have been born before the study: a year or month, too, sorts before later days."""
    taken = facts.identity.study_date
    return taken is None or patient.birth_date is None or patient.birth_date <= taken


def digest_seen(facts: Facts) -> str:
    """Return the digest of what a person sees: identifiers, birth dates, sexes, merges, and whose the orders are.

    Names of Patients are not part of it: a corrected spelling asks nobody again. The study's name is, where no birth
    date confirms a Patient: another name under the same number may be another person.
    """
    study = facts.identity
    patients = [
        [one.reference, *_list_sorted(one), one.birth_date, one.sex, one.is_active, _is_born(facts, one)]
        for one in sorted(facts.candidates, key=lambda one: one.reference)
    ]
    subjects = sorted({one.subject for one in facts.orders})
    is_confirmed = study.birth_date is not None and any(one.birth_date == study.birth_date for one in facts.candidates)
    names = [] if is_confirmed else sorted(study.names)
    seen = [sorted(study.keys), study.birth_date, study.sex, names, _is_plausible(facts), patients, subjects]
    return digest(json.dumps(seen), length=64)


def digest_side(facts: Facts) -> str:
    """Return the digest of what tells a study of an identity from others: birth date, sex, and whose the orders are.

    The name belongs to it if the birth date is missing.
    """
    study, subjects = facts.identity, sorted({one.subject for one in facts.orders})
    names = [] if study.birth_date else sorted(study.names)
    return digest(json.dumps([study.birth_date, study.sex, names, subjects]), length=64)


def _list_sorted(one: Candidate) -> list[list[Any]]:
    return [sorted(one.keys), sorted(one.former_keys), sorted(one.replaced_by)]


def read_names(text: str | None) -> frozenset[str]:
    """Return the components of a PN that name somebody, for comparison."""
    groups = (text or "").split("\\")[0].split("=")
    return _fold(part for group in groups for part in group.split("^")[:_NAME_PARTS])


def _fold(parts: Iterable[str]) -> frozenset[str]:
    """Return words without case, accents and punctuation, of at least `_SHORTEST` letters."""
    words = (word for part in parts for word in _BETWEEN_WORDS.split(_strip_accents(part)))
    return frozenset(word for word in words if len(word) >= _SHORTEST and word not in _NO_NAMES)


def _strip_accents(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(one for one in plain if not unicodedata.combining(one))


def read_birth_date(text: str | None, placeholders: frozenset[str]) -> str | None:
    """Return PatientBirthDate as a FHIR date; None if it is absent, impossible or a placeholder."""
    found = day(text)
    return None if found in placeholders else found


def read_identity(
    header: Mapping[str, str | None], keys: tuple[Key, ...], placeholders: frozenset[str], *, is_crossed: bool = False
) -> Identity:
    """Return what a header says of its patient.

    Parameters
    ----------
    header
        Values by DICOM keyword.
    keys
        The identifiers to look for.
    placeholders
        Birth dates that count as absent, as FHIR dates.
    is_crossed
        Whether a crosswalk has replaced the header's number.
    """
    return Identity(
        keys,
        is_crossed,
        read_birth_date(header.get("PatientBirthDate"), placeholders),
        gender(header.get("PatientSex")),
        read_names(header.get("PatientName")),
        day(header.get("StudyDate")),
    )


def read_candidate(patient: Mapping[str, Any], placeholders: frozenset[str], today: date) -> Candidate:
    """Return what a FHIR Patient says; an element of another form than FHIR's counts as absent."""
    born = patient.get("birthDate")
    names = [name for name in list_elements(patient, "name") if name.get("use") != "old"]
    parts = [part for name in names for part in (name.get("family"), name.get("text"), *_list(name, "given"))]
    keys = {True: set[Key](), False: set[Key]()}
    for one in list_elements(patient, "identifier"):
        key = read_key(one)
        if key is not None:
            keys[is_in_use(one, today)].add(key)
    return Candidate(
        f"Patient/{patient['id']}",
        frozenset(keys[True]),
        born if isinstance(born, str) and born not in placeholders else None,
        patient.get("gender") if isinstance(patient.get("gender"), str) else None,
        _fold(part for part in parts if isinstance(part, str)),
        patient.get("active") is not False,
        frozenset(list_replacements(patient)),
        frozenset(keys[False] - keys[True]),
    )


def list_keys(patient: Mapping[str, Any]) -> set[Key]:
    """Return all identifiers of a FHIR Patient that have a system, active or not."""
    return {key for one in list_elements(patient, "identifier") if (key := read_key(one)) is not None}


def read_key(identifier: Mapping[str, Any]) -> Key | None:
    """Return an identifier's system and value; None if one of them is absent."""
    system, value = identifier.get("system"), identifier.get("value")
    number = exact(value) if isinstance(value, str) else None
    return (system, number) if isinstance(system, str) and number else None


def is_in_use(identifier: Mapping[str, Any], today: date) -> bool:
    """Return whether an identifier is active (Identifier.use, Identifier.period)."""
    period = identifier.get("period")
    end = period.get("end") if isinstance(period, dict) else None
    has_ended = isinstance(end, str) and end[:10] < today.isoformat()[: len(end[:10])]
    return identifier.get("use") != "old" and not has_ended


def list_replacements(patient: Mapping[str, Any]) -> list[str]:
    """Return the Patients of the data store that replace one, by Patient.link, as ``Patient/<id>``."""
    links = [one for one in list_elements(patient, "link") if one.get("type") == "replaced-by"]
    return [name for one in links if (name := read_patient_name(one.get("other"))) is not None]


def read_patient_name(found: Any) -> str | None:
    """Return the Patient that a Reference names, as ``Patient/<id>``; None if it names none."""
    text = found.get("reference") if isinstance(found, dict) else None
    whole = _PATIENT.fullmatch(text) if isinstance(text, str) else None
    return whole[1] if whole else None


def list_elements(resource: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the complex elements of a resource with a name; what is of another form is left out."""
    return [item for item in _list(resource, name) if isinstance(item, dict)]


def _list(resource: Mapping[str, Any], name: str) -> list[Any]:
    found = resource.get(name)
    return found if isinstance(found, list) else []


ASKED: dict[str, str] = {
    Question.AMBIGUOUS: "Several Patients have the number, or the one that has it is not active, or had it before.",
    Question.UNGUARDED: "A Patient has the number, but birth date, sex and name do not confirm it.",
    Question.CONTRADICTED: "The study's order is another Patient's. Its publication is held.",
    Question.MERGED: "The Patient was replaced by another one. The study has not followed.",
    Question.CHANGED: "A person decided, and what they saw has changed.",
}
