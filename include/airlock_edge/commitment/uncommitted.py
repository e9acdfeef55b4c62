"""``airlock-edge uncommitted``: what requests were refused, and what of it is safe by now."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airlock_edge.commitment.service import after_of
from airlock_edge.commitment.store import State
from airlock_edge.commitment.verdict import Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock_edge.commitment.store import CommitmentStore
    from airlock_edge.settings import Edge

_ANSWERED = (State.DECIDED, State.REPORTED, State.UNDELIVERED)


@dataclass
class Study:
    """The instances of a study that a request was answered a failure for.

    Attributes
    ----------
    ae_title, received_at
        Who asked, and when.
    study_key
        The study; "" for instances that were never received.
    settled
        The SOP Instance UIDs that a new request would have committed.
    open
        The others, by SOP Instance UID with what is known of each.
    reasons
        Airlock's reason codes of the others, counted.
    undelivered
        Whether the peer has not taken the result.
    """

    ae_title: str
    received_at: str
    study_key: str
    undelivered: bool
    settled: list[str] = field(default_factory=list)
    open: dict[str, Verdict] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)


def list_uncommitted(settings: Edge, store: CommitmentStore) -> Iterator[Study]:
    """Yield what was answered a failure, by request and study, in the order of the requests."""
    for request in store.list_in(*_ANSWERED):
        references = store.references(request.number)
        if all(one.failure is None for one in references):
            continue
        studies: dict[str, Study] = {}
        after = after_of(settings, request.ae_title)
        undelivered = request.state is State.UNDELIVERED
        for reference, known in zip(references, store.look(request.number), strict=True):
            if reference.failure is None:
                continue
            new = Study(request.ae_title, request.received_at, known.study_key, undelivered)
            study = studies.setdefault(known.study_key, new)
            verdict = judge(after, known.contents, has_other_class=known.has_other_class)
            if verdict is Verdict.COMMITTED:
                study.settled.append(reference.sop_instance_uid)
            else:
                study.open[reference.sop_instance_uid] = verdict
                study.reasons.update(known.reasons)
        yield from studies.values()


def describe(study: Study, *, instances: bool) -> Iterator[str]:
    """Yield the lines about a study; with *instances* the SOP Instance UIDs, for the sender's staff."""
    name = study.study_key or "never received"
    told = f"{study.received_at[:19]}  {study.ae_title:16}  {name:16}  {len(study.settled)} settled since"
    yield f"{told}, {len(study.open)} open{_describe_reasons(study)}{' (result not delivered)' * study.undelivered}"
    if instances:
        yield from (f"  settled  {uid}" for uid in study.settled)
        yield from (f"  {verdict:9}{uid}" for uid, verdict in study.open.items())


def make_record(study: Study, *, instances: bool) -> dict[str, Any]:
    """Return a study as ``--json`` prints it; with *instances* the SOP Instance UIDs."""
    record: dict[str, Any] = {
        "ae_title": study.ae_title,
        "received_at": study.received_at,
        "study_key": study.study_key or None,
        "delivered": not study.undelivered,
        "settled": len(study.settled),
        "open": Counter(str(one) for one in study.open.values()),
        "reasons": study.reasons,
    }
    return record | ({"settled_instances": study.settled, "open_instances": study.open} if instances else {})


def _describe_reasons(study: Study) -> str:
    verdicts = Counter(str(one) for one in study.open.values())
    found = [f"{number} {name}" for name, number in (*sorted(verdicts.items()), *sorted(study.reasons.items()))]
    return f" ({', '.join(found)})" if found else ""
