"""Gather what decides whose the studies are: headers, the store's Patients and orders, people's decisions, merges.

The decision itself is `patient_match.match_patient`. What was decided is written to the dataset ``matches`` and to the
ledger; the contracts of the studies are completed from the dataset.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import polars as pl
from pydantic_core import from_json, to_json

from airlock.imaging.contracts import FhirReferences, MatchedPatient, StudyContract
from airlock.imaging.crosswalk import MOST_STEPS, Crosswalk, read_crosswalk
from airlock.imaging.fhir.identifiers import (
    list_identities,
    own_patient_id,
    patient_identifier,
    service_request_id,
    study_patient_id,
)
from airlock.imaging.fhir.publishing import read_publishing
from airlock.imaging.fhir.study import name_resources
from airlock.imaging.fhir.values import day, exact
from airlock.imaging.patient_match import (
    Answer,
    Facts,
    Order,
    Outcome,
    list_keys,
    list_replacements,
    match_patient,
    read_candidate,
    read_identity,
    read_patient_name,
)
from airlock.ledger.identities import MATCHES, OWN
from airlock.pipelines import Publication
from airlock.records import CONTRACTS, schema
from airlock.stages.sites import site_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from airlock.imaging.fhir.publishing import Publishing
    from airlock.imaging.patient_match import Candidate, Key, Match
    from airlock.pipelines import HealthLake, PatientMatch
    from airlock.run import Run

DATASET = "matches"
MATCHED = schema(dict.fromkeys(("StudyInstanceUID", "outcome", "patient_match"), pl.String))  # the last one is JSON
HEADS = schema(dict.fromkeys(("patient", "head", "key"), pl.String))  # a contract without its series, and a file's key
AT_A_TIME = 8  # requests to the data store
_CHUNK = 1_000  # studies
_ACCESSION = "ACSN"
_OWN_ID = re.compile("Patient/[0-9a-f]{32}")  # as `fhir.identifiers` makes them; others may, too

T = TypeVar("T")
U = TypeVar("U")


class PatientStore(Protocol):
    """Reads and searches one HealthLake data store."""

    def read(self, resource_type: str, resource_id: str) -> dict[str, Any] | None:
        """Return a resource; None if there is none."""

    def search(self, resource_type: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield what a search finds, page after page."""


@dataclass(frozen=True)
class Head:
    """A study without its series."""

    contract: StudyContract
    site: str


@dataclass(frozen=True)
class Matched:
    """A study and what was decided about its patient."""

    head: Head
    identity: str  # Patient/<id> of the Patient that Airlock makes for it
    match: Match

    @property
    def field(self) -> MatchedPatient | None:
        """The field of its contract; None where the study cannot be published."""
        if self.match.outcome is Outcome.CONTRADICTED:
            return None
        names = ("outcome", "patient", "means", "question", "order")
        found = {name: getattr(self.match, name) for name in names}
        return MatchedPatient.model_validate({name: one if one is None else str(one) for name, one in found.items()})


@dataclass(frozen=True)
class Matcher:
    """Decides whose studies are, some at a time; each identifier is looked for once.

    Parameters
    ----------
    run
        The run.
    store
        The HealthLake data store.
    settings
        Of the publication.
    today
        By the clock of this machine, in UTC.
    """

    run: Run
    store: PatientStore
    settings: Publishing
    today: date

    @classmethod
    def of(cls, run: Run, store: PatientStore) -> Matcher:
        """Return the matcher of a run that publishes."""
        return cls(run, store, read_publishing(run.pipeline, find_healthlake(run)), datetime.now(UTC).date())

    @cached_property
    def rules(self) -> PatientMatch:
        """The rules."""
        found = self.run.pipeline.publish.patient_match
        assert found is not None  # noqa: S101  # callers ask `is_matching` first
        return found

    @cached_property
    def crosswalk(self) -> Crosswalk | None:
        """The crosswalk, read once."""
        address = self.rules.crosswalk
        return None if address is None else read_crosswalk(self.run, address, self.today)

    @cached_property
    def placeholders(self) -> frozenset[str]:
        """The birth dates that count as absent."""
        return frozenset(one.isoformat() for one in self.rules.placeholder_dates)

    def match(self, heads: Sequence[Head]) -> list[Matched]:
        """Decide on studies, at most about a thousand at a time."""
        keys = self._find_keys([head.contract for head in heads])
        identities = [f"Patient/{own_patient_id(head.contract, self.settings)}" for head in heads]
        found = _Found.gather(self, heads, (own for own, _ in keys), set(identities))
        answers = self._read_answers(identities)
        decided = []
        for head, identity, looked_for in zip(heads, identities, keys, strict=True):
            facts = found.facts_of(self, head, looked_for, answers.get(identity, []))
            decided.append(Matched(head, identity, match_patient(facts)))
        return decided

    def order_key(self, head: Head) -> tuple[str, str] | None:
        """Return the site and AccessionNumber of a study's order; None without one, or if the site has no rule."""
        number, site_pattern = exact(head.contract.AccessionNumber), self.run.pipeline.source.site_pattern
        is_known = site_pattern is None or head.site in self.rules.order_systems
        return (head.site, number) if number and is_known and not self.settings.is_placeholder(number) else None

    def _find_keys(self, contracts: Sequence[StudyContract]) -> list[tuple[tuple[Key, ...], bool]]:
        """Return the identifiers to look for of each study, and whether a crosswalk has replaced the header's."""
        own = [self._read_key(contract) for contract in contracts]
        leads = self.crosswalk.follow(key for key in own if key is not None) if self.crosswalk else {}
        found = []
        for key in own:
            more = () if key is None else leads.get(key, ())
            every = () if key is None else (key, *more)
            found.append((tuple(one for one in every if self._may_match(one)), bool(more)))
        return found

    def _may_match(self, key: Key) -> bool:
        return key[0] in self.rules.systems and not self.settings.is_placeholder(key[1])

    def _read_key(self, contract: StudyContract) -> Key | None:
        """Return PatientID with its system; None if it names nobody."""
        identifier = patient_identifier(contract, self.settings)
        if identifier is None or "system" not in identifier or self.settings.is_placeholder(identifier["value"]):
            return None
        return identifier["system"], identifier["value"]

    def _read_answers(self, identities: Collection[str]) -> dict[str, list[Answer]]:
        lake, names = find_healthlake(self.run).datastore_id, pl.Series(identities, dtype=pl.String)
        rows = self.run.ledger.identity_answers(lake, names)
        found: dict[str, list[Answer]] = {}
        for row in rows.iter_rows(named=True):
            patient = None if row["answer"] == OWN else row["answer"]
            about = json.loads(row["details"] or "{}")
            one = Answer(row["seen"], patient, frozenset(about.get("studies", ())), about.get("side"))
            found.setdefault(row["subject"], []).append(one)
        return found

    def is_own(self, patient: Mapping[str, Any]) -> bool:
        """Return whether Airlock has made a Patient of the data store: its id is the digest of its number."""
        return patient["id"] in list_identities(list_keys(patient), self.settings)


@dataclass(frozen=True)
class _Found:
    """What the data store has for some studies, without what Airlock has made."""

    patients: Mapping[Key, Sequence[dict[str, Any]]]  # by identifier
    orders: Mapping[tuple[str, str], Sequence[dict[str, Any]]]  # by site and AccessionNumber
    by_name: Mapping[str, dict[str, Any] | None]  # all Patients that were found, or that an order names

    @classmethod
    def gather(
        cls, matcher: Matcher, heads: Sequence[Head], keys: Iterable[tuple[Key, ...]], identities: Collection[str]
    ) -> _Found:
        """Ask the data store: once for each identifier, each AccessionNumber and each further Patient."""
        asked = sorted({key for own in keys for key in own})
        patients = ask_each(lambda key: list(_find_patients(matcher.store, key)), asked)
        numbers = sorted({pair for head in heads if (pair := matcher.order_key(head)) is not None})
        orders = ask_each(lambda pair: list(_find_orders(matcher, *pair)), numbers)
        by_name: dict[str, dict[str, Any] | None] = dict.fromkeys(identities)
        by_name |= {f"Patient/{one['id']}": one for found in patients.values() for one in found}
        named = {subject for found in orders.values() for one in found if (subject := read_subject(one))}
        by_name |= _read_patients(matcher, named.difference(by_name))
        for _ in range(MOST_STEPS):  # from one merge to the next
            replacing = {name for one in by_name.values() if one is not None for name in list_replacements(one)}
            if replacing <= by_name.keys():
                break
            by_name |= _read_patients(matcher, replacing.difference(by_name))
        own = {name for name, one in by_name.items() if one is not None and matcher.is_own(one)} | set(identities)
        own |= _find_of_studies(matcher, heads, identities, {name for name, one in by_name.items() if one} - own)
        foreign = {key: [one for one in found if f"Patient/{one['id']}" not in own] for key, found in patients.items()}
        theirs = {pair: [one for one in found if read_subject(one) not in own] for pair, found in orders.items()}
        return cls(foreign, theirs, by_name)

    def facts_of(
        self, matcher: Matcher, head: Head, looked_for: tuple[tuple[Key, ...], bool], answers: Sequence[Answer]
    ) -> Facts:
        """Return everything that decides on a study."""
        contract, (keys, is_crossed) = head.contract, looked_for
        orders = list(self._orders_of(matcher, head))
        resources = {one["id"]: one for key in keys for one in self.patients.get(key, ())}
        for name in sorted(self._list_replacing(resources.values()).union(one.subject for one in orders)):
            resource = self.by_name.get(name)
            if resource is not None:
                resources.setdefault(resource["id"], resource)
        header = contract.model_dump(include={"PatientName", "PatientBirthDate", "PatientSex", "StudyDate"})
        identity = read_identity(header, keys, matcher.placeholders, is_crossed=is_crossed)
        return Facts(
            identity,
            [self._read_candidate(matcher, one) for one in resources.values()],
            orders,
            answers,
            matcher.today + timedelta(days=1),  # the study may be of a time zone in which the next day has begun
            contract.StudyInstanceUID,
        )

    def _list_replacing(self, patients: Iterable[dict[str, Any]]) -> set[str]:
        """Return the Patients that have replaced these, by one merge after another."""
        found: set[str] = set()
        ahead = {name for one in patients for name in list_replacements(one)}
        while ahead:
            found |= ahead
            read = (one for name in ahead if (one := self.by_name.get(name)) is not None)
            ahead = {name for one in read for name in list_replacements(one)} - found
        return found

    def _read_candidate(self, matcher: Matcher, patient: dict[str, Any]) -> Candidate:
        return read_candidate(patient, matcher.placeholders, matcher.today)

    def _orders_of(self, matcher: Matcher, head: Head) -> Iterator[Order]:
        pair = matcher.order_key(head)
        stub = f"ServiceRequest/{service_request_id(head.contract, matcher.settings)}"
        for one in self.orders.get(pair, ()) if pair else ():
            subject, reference = read_subject(one), f"ServiceRequest/{one['id']}"
            if subject and reference != stub and _is_near(one, head.contract.StudyDate, matcher.rules.order_days):
                yield Order(reference, subject)


def is_matching(run: Run) -> bool:
    """Return whether the pipeline looks for the Patients of its studies."""
    return run.pipeline.healthlake is not None and run.pipeline.publish.patient_match is not None


def find_healthlake(run: Run) -> HealthLake:
    """Return the settings of the HealthLake data store.

    Raises
    ------
    ValueError
        If the pipeline publishes nothing.
    """
    store = run.pipeline.healthlake
    if store is None:
        raise ValueError(f"pipeline {run.pipeline.name!r} publishes nothing: it has no healthlake section")
    return store


def ask_each(ask: Callable[[T], U], asked: Sequence[T]) -> dict[T, U]:
    """Return the answer to each question; several are asked at a time."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return dict(zip(asked, pool.map(ask, asked), strict=True))


def _find_of_studies(
    matcher: Matcher, heads: Sequence[Head], identities: Collection[str], names: Collection[str]
) -> set[str]:
    """Return those Patients that Airlock has made of a study: its number was a placeholder then, and is none by now.

    The study is one of these identities, or has the Patient still.
    """
    suspects = {name for name in names if _OWN_ID.fullmatch(name)}
    if not suspects:
        return set()
    run, lake = matcher.run, find_healthlake(matcher.run).datastore_id
    persons = run.ledger.persons_ever_of(lake, pl.Series(sorted(identities), dtype=pl.String))
    asked = pl.Series(sorted(suspects.union(identities, persons)), dtype=pl.String)
    studies = {head.contract.StudyInstanceUID for head in heads}
    studies.update(run.ledger.contracts_of_patients(run.pipeline.datastore_id, asked)["subject"])
    return suspects & {f"Patient/{study_patient_id(study)}" for study in studies}


def _read_patients(matcher: Matcher, names: Collection[str]) -> dict[str, dict[str, Any] | None]:
    return ask_each(lambda name: matcher.store.read(*name.split("/", 1)), sorted(names))


def _find_patients(store: PatientStore, key: Key) -> Iterator[dict[str, Any]]:
    system, number = map(escape_token, key)
    return store.search("Patient", {"identifier": f"{system}|{number}", "_count": "100"})


def _find_orders(matcher: Matcher, site: str, number: str) -> Iterator[dict[str, Any]]:
    """Yield the orders that have a number as AccessionNumber: of the site's system, or by the identifier's type."""
    system = matcher.rules.order_systems.get(site)
    asked = escape_token(number) if system is None else f"{escape_token(system)}|{escape_token(number)}"
    for one in matcher.store.search("ServiceRequest", {"identifier": asked, "_count": "100"}):
        if number in list_accessions(one, system) and one.get("status") != "entered-in-error":
            yield one


def escape_token(text: str) -> str:
    """Return a value for a search (FHIR R4, search, "Escaping Search Parameters")."""
    for one in ("\\", "$", ",", "|"):
        text = text.replace(one, f"\\{one}")
    return text


def list_accessions(order: Mapping[str, Any], system: str | None) -> list[str]:
    """Return the AccessionNumbers of an order: of this system; without one, those whose type says so."""
    found = [one for one in order.get("identifier") or () if isinstance(one, dict)]
    chosen = [one for one in found if (_is_accession(one) if system is None else one.get("system") == system)]
    return [str(one.get("value")) for one in chosen]


def _is_accession(identifier: Mapping[str, Any]) -> bool:
    kind = identifier.get("type")
    codings = kind.get("coding") if isinstance(kind, dict) else None
    return any(isinstance(one, dict) and one.get("code") == _ACCESSION for one in codings or ())


def read_subject(order: Mapping[str, Any]) -> str | None:
    """Return the Patient of an order, as ``Patient/<id>``; None if it names none of the data store."""
    return read_patient_name(order.get("subject"))


def _is_near(order: Mapping[str, Any], study_date: str | None, days: int) -> bool:
    """Return whether an order is of the study's time; one without a date is, and so is that of a study without one."""
    period = order.get("occurrencePeriod")
    begin = period.get("start") if isinstance(period, dict) else None
    dates = [str(one)[:10] for one in (order.get("occurrenceDateTime"), begin, order.get("authoredOn")) if one]
    taken = day(study_date)
    whole = [one for one in map(_read_day, dates) if one is not None]
    if taken is None or not whole:
        return True
    return any(abs((one - date.fromisoformat(taken)).days) <= days for one in whole)


def _read_day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def read_heads(rows: pl.DataFrame, settings: Publishing) -> pl.DataFrame:
    """Return contracts (`records.CONTRACTS`) without their series, as `HEADS`."""
    found = []
    for text in rows["contract"]:
        content = from_json(text)
        sources = [one["source"] for series in content["series"][:1] for one in series["instances"][:1]]
        content["series"] = []
        head = to_json(content).decode()
        patient = own_patient_id(StudyContract.model_validate_json(head), settings)
        found.append((patient, head, sources[0].removeprefix("s3://").partition("/")[2] if sources else ""))
    return pl.DataFrame(found, schema=HEADS, orient="row")


def parse_heads(run: Run, rows: pl.DataFrame) -> Iterator[list[Head]]:
    """Yield studies of `HEADS` some at a time, those of one patient together."""
    sites = rows.sort("patient").with_columns(site_of(run.pipeline.source))
    for chunk in sites.iter_slices(_CHUNK):
        pairs = zip(chunk["head"], chunk["site"], strict=True)
        yield [Head(StudyContract.model_validate_json(text), site) for text, site in pairs]


def match_studies(matcher: Matcher, heads: Iterable[pl.DataFrame]) -> None:
    """Decide whose the studies are (`HEADS`, whole patients), and write the dataset ``matches`` and the ledger."""
    run = matcher.run
    with run.within(Publication.resources_folder).workspace.writer(DATASET, MATCHED) as writer:
        for rows in heads:
            for chunk in parse_heads(run, rows):
                decided = matcher.match(chunk)
                record_matches(run, decided)
                writer.add(_as_rows(decided))


def _as_rows(decided: Iterable[Matched]) -> pl.DataFrame:
    rows = [
        (one.head.contract.StudyInstanceUID, one.match.outcome.value, one.field and one.field.model_dump_json())
        for one in decided
    ]
    return pl.DataFrame(rows, schema=MATCHED, orient="row")


def record_matches(run: Run, decided: Sequence[Matched]) -> None:
    """Record decisions and questions in the ledger."""
    rows = [
        (
            one.head.contract.StudyInstanceUID,
            one.head.contract.study_key,
            one.identity,
            one.head.site,
            one.match.seen,
            one.match.patient or OWN,
            one.match.outcome.value,
            one.match.question and one.match.question.value,
            _describe_question(one),
        )
        for one in decided
    ]
    frame = pl.DataFrame(rows, schema=MATCHES, orient="row").unique("subject", keep="last", maintain_order=True)
    run.ledger.record_matches(run.pipeline.name, find_healthlake(run).datastore_id, run.key, frame)


def _describe_question(one: Matched) -> str:
    names = {"among": one.match.among, "orders": one.match.orders, "side": one.match.side}
    return json.dumps({"identity": one.identity, "outcome": one.match.outcome.value} | names)


def read_matches(run: Run) -> pl.DataFrame:
    """Return what the run has decided about the Patients of its studies, as `MATCHED`; no rows before it did."""
    workspace = run.within(Publication.resources_folder).workspace
    found = pl.concat([MATCHED.to_frame(), *workspace.find_parts(DATASET, MATCHED)])
    return found.unique("StudyInstanceUID", keep="last", maintain_order=True)


def with_match(contract: StudyContract, field: str | None, settings: Publishing) -> StudyContract:
    """Return a contract with its field ``patient_match`` (JSON; None leaves it) and the references that follow."""
    if field is not None:
        contract = contract.model_copy(update={"patient_match": MatchedPatient.model_validate_json(field)})
    return contract.model_copy(update={"fhir": FhirReferences(**name_resources(contract, settings))})


def complete_contracts(rows: pl.DataFrame, matches: pl.DataFrame, settings: Publishing) -> pl.DataFrame:
    """Return contracts (`records.CONTRACTS`) with their Patients, without those whose order is another patient's."""
    if matches.is_empty():
        return rows
    joined = rows.join(matches, left_on="subject", right_on="StudyInstanceUID", how="left", maintain_order="left")
    kept = joined.filter(pl.col("outcome").is_null() | (pl.col("outcome") != Outcome.CONTRADICTED.value))
    found = []
    for row in kept.iter_rows(named=True):
        contract = StudyContract.model_validate_json(row["contract"])
        whole = with_match(contract, row["patient_match"], settings)
        found.append((row["subject"], row["subject_key"], row["revision"], whole.content_digest, whole.to_json()))
    return pl.DataFrame(found, schema=CONTRACTS, orient="row")


def find_contradicted(run: Run) -> list[str]:
    """Return the studies that cannot be published since their order is another patient's."""
    matches = read_matches(run)
    return matches.filter(pl.col("outcome") == Outcome.CONTRADICTED.value)["StudyInstanceUID"].to_list()
