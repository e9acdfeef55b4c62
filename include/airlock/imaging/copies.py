"""Copies: files with one SOPInstanceUID. Which copy counts, and which of the others hold their study.

Each further copy is compared with the first: the one that another arrival has brought or is bringing into the data
store, or else the first by key of the delivery.

- the same content: a duplicate;
- another patient, study or series: `identity_changed`. Whose image it is, is decided by a person;
- the same pixels and another header: `header_changed`. Only a hash proves that;
- anything else: `duplicate_other_content`.

The same content or pixels are `instance_claimed` while another run has not imported the first copy.

If no copy is in the data store yet, a delivery with copies of the last kind, or of several identities, loses all of
them: none is better than the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import polars as pl

from airlock.imaging.copy_proofs import Copy, Likeness
from airlock.imaging.verdicts import IS_ACCEPTED, decide, filter_accepted
from airlock.reasons import Reason
from airlock.records import Disposition, Gate, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airlock.imaging.copy_proofs import Pair
    from airlock.pipelines import Validate

# Copies that wait for a person's decision. They are never imported.
HELD_COPIES = (Reason.IDENTITY_CHANGED, Reason.HEADER_CHANGED)
_UID = "SOPInstanceUID"
_OBJECT = ("bucket", "key", "etag", "size")
_IDENTITY = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SeriesInstanceUID")
_OTHER_IDENTITY = "other_identity"
_FIRST = {name: f"first_{name}" for name in ("arrival_id", *_OBJECT, *_IDENTITY)}
_EARLIER = pl.lit("of an earlier delivery")


class Proofs(Protocol):
    """Proves that copies are the same; `copy_proofs.CopyProofs` is one."""

    def compare(self, pairs: Sequence[Pair]) -> list[Likeness]:
        """Return how far the copies of each pair are proven to be the same."""


def decide_by_owners(
    rows: pl.DataFrame, owners: pl.DataFrame, studies: pl.DataFrame, proofs: Proofs, settings: Validate
) -> pl.DataFrame:
    """Decide on accepted arrivals whose instance another arrival has brought, or is to bring, into the data store.

    Parameters
    ----------
    rows
        Arrivals with headers and verdicts.
    owners
        `instances.OWNERS`: the other arrivals.
    studies
        `studies.STUDIES`: the grouping elements of their studies, as far as the data store has them.
    proofs
        Proves that copies are the same.
    settings
        The policy for another header.
    """
    known = studies.select("StudyInstanceUID", *(_strip(name) for name in ("PatientID", "IssuerOfPatientID")))
    firsts = owners.join(known, on="StudyInstanceUID", how="left", maintain_order="left")
    firsts = firsts.select(_UID, "state", *(pl.col(name).alias(first) for name, first in _FIRST.items()))
    rows = _compare_with_first(rows, firsts, proofs)
    first, claimed = pl.col("first_arrival_id"), pl.col("state") == "claimed"
    same = pl.col("likeness").is_in([Likeness.SAME_CONTENT.value, Likeness.SAME_PIXELS.value])
    # Not a duplicate yet: if that run fails, the instance is not in the store and this file is still needed.
    waits = pl.lit("held by another run")
    rows = decide(rows, claimed & same, Verdict.QUARANTINE, Reason.INSTANCE_CLAIMED, waits, duplicate_of=first)
    taken = pl.lit("taken by an earlier delivery")
    rows = decide(
        rows, _is(Likeness.SAME_CONTENT), Verdict.DUPLICATE, Reason.DUPLICATE_SAME_CONTENT, taken, duplicate_of=first
    )
    verdict = _verdict_on_header(settings)
    rows = decide(rows, _is(Likeness.SAME_PIXELS), verdict, Reason.HEADER_CHANGED, _EARLIER, duplicate_of=first)
    other = pl.lit("differs from the copy of an earlier delivery")
    rows = decide(rows, _is(_OTHER_IDENTITY), Verdict.QUARANTINE, Reason.IDENTITY_CHANGED, other, duplicate_of=first)
    rest = pl.lit("an earlier delivery holds other content")
    rows = decide(
        rows, _is(Likeness.UNPROVEN), Verdict.QUARANTINE, Reason.DUPLICATE_OTHER_CONTENT, rest, duplicate_of=first
    )
    return rows.drop("state", "likeness", *_FIRST.values())


def decide_by_claims(rows: pl.DataFrame, owners: pl.DataFrame) -> pl.DataFrame:
    """Decide on accepted arrivals whose instance another run has claimed since they were compared.

    A later run takes them again and compares them: nothing is asked of S3 while the ledger is locked.

    Parameters
    ----------
    rows
        Arrivals with verdicts.
    owners
        `instances.OWNERS`: the other arrivals.
    """
    owners = owners.select(_UID, owner="arrival_id")
    rows = rows.join(owners, on=_UID, how="left", maintain_order="left")
    owner, waits = pl.col("owner"), pl.lit("held by another run")
    claimed = owner.is_not_null()
    rows = decide(rows, claimed, Verdict.QUARANTINE, Reason.INSTANCE_CLAIMED, waits, duplicate_of=owner)
    return rows.drop("owner")


def decide_among_copies(rows: pl.DataFrame, proofs: Proofs, settings: Validate) -> pl.DataFrame:
    """Decide on the copies of a delivery whose instance nobody has brought into the data store.

    The first by key is accepted unless a copy has another identity or is not proven to be the same image.

    Parameters
    ----------
    rows
        Arrivals with headers and verdicts; all copies of an instance, after `decide_by_owners`.
    proofs, settings
        As for `decide_by_owners`.
    """
    copies = filter_accepted(rows).filter(pl.col(_UID).is_duplicated())
    if copies.is_empty():
        return rows
    facts = pl.col("arrival_id", *_OBJECT), *(_strip(name) for name in _IDENTITY)
    firsts = copies.sort("key", "arrival_id").select(_UID, *facts).unique(_UID, keep="first", maintain_order=True)
    copies_of = copies.group_by(_UID).agg(copies=pl.len())
    firsts = firsts.rename(_FIRST).join(copies_of, on=_UID, how="left", maintain_order="left")
    rows = _compare_with_first(rows, firsts, proofs)
    detail = pl.format("{} copies in this delivery", pl.col("copies"))
    for likeness, reason in (
        (_OTHER_IDENTITY, Reason.IDENTITY_CHANGED),
        (Likeness.UNPROVEN, Reason.DUPLICATE_OTHER_CONTENT),
    ):
        any_copy = pl.col("copies").is_not_null() & _is(likeness).any().over(_UID)
        rows = decide(rows, any_copy, Verdict.QUARANTINE, reason, detail)
    first = pl.col("first_arrival_id")
    is_repeated = first != pl.col("arrival_id")
    same = _is(Likeness.SAME_CONTENT) & is_repeated
    rows = decide(rows, same, Verdict.DUPLICATE, Reason.DUPLICATE_SAME_CONTENT, detail, duplicate_of=first)
    verdict, pixels = _verdict_on_header(settings), _is(Likeness.SAME_PIXELS)
    rows = decide(rows, pixels, verdict, Reason.HEADER_CHANGED, detail, duplicate_of=first)
    return rows.drop("copies", "likeness", *_FIRST.values())


def _compare_with_first(rows: pl.DataFrame, firsts: pl.DataFrame, proofs: Proofs) -> pl.DataFrame:
    """Add the columns of *firsts* and ``likeness``; null where a row is not accepted or has no first copy."""
    rows = rows.join(firsts, on=_UID, how="left", maintain_order="left")
    of_one = IS_ACCEPTED & pl.col("first_arrival_id").is_not_null()
    same = (pl.col("first_etag") == pl.col("etag")) & (pl.col("first_size") == pl.col("size"))
    rows = rows.with_columns(
        likeness=pl.when(of_one & same)
        .then(pl.lit(Likeness.SAME_CONTENT.value))
        .when(of_one & _identity_differs())
        .then(pl.lit(_OTHER_IDENTITY))
        .when(of_one)
        .then(pl.lit(Likeness.UNPROVEN.value))
    )
    doubtful = rows.filter(_is(Likeness.UNPROVEN)).sort("key", "arrival_id")
    if doubtful.is_empty():
        return rows
    ones = map(Copy._make, doubtful.select(_FIRST[name] for name in _OBJECT).iter_rows())
    others = map(Copy._make, doubtful.select(_OBJECT).iter_rows())
    proven = [likeness.value for likeness in proofs.compare(list(zip(ones, others, strict=True)))]
    found = doubtful.select("arrival_id", proven=pl.Series(proven, dtype=pl.String))
    rows = rows.join(found, on="arrival_id", how="left", maintain_order="left")
    return rows.with_columns(likeness=pl.coalesce("proven", "likeness")).drop("proven")


def _is(likeness: str) -> pl.Expr:
    return (pl.col("likeness") == str(likeness)).fill_null(value=False)


def _strip(name: str) -> pl.Expr:
    return pl.col(name).fill_null("").str.strip_chars()


def _identity_differs() -> pl.Expr:
    """Return whether a copy names another patient, study or series than the first copy, as far as that is known.

    An issuer that only one of both copies has does not differ: archives add and remove it.
    """
    differs = [_strip(name) != pl.col(_FIRST[name]) for name in _IDENTITY if name != "IssuerOfPatientID"]
    issuer, first = _strip("IssuerOfPatientID"), pl.col("first_IssuerOfPatientID")
    return pl.any_horizontal(*differs, (issuer != "") & (first != "") & (issuer != first)).fill_null(value=False)


def _verdict_on_header(settings: Validate) -> Verdict:
    return Verdict.QUARANTINE if settings.changed_header == "hold" else Verdict.DUPLICATE


def is_held_copy() -> pl.Expr:
    """Return whether a verdict is on a copy that waits for a person's decision."""
    held = pl.col("reason").is_in([str(reason) for reason in HELD_COPIES])
    return (held & (pl.col("verdict") == Verdict.QUARANTINE)).fill_null(value=False)


def find_quarantined_uids(verdicts: pl.DataFrame) -> pl.Series:
    """Return the SOPInstanceUIDs of the quarantined files whose study may have the instance in the data store."""
    quarantined = (pl.col("verdict") == Verdict.QUARANTINE) & (pl.col(_UID) != "") & ~is_held_copy()
    return verdicts.filter(quarantined)[_UID].unique()


def leave_out_stored(verdicts: pl.DataFrame, in_store: pl.Series) -> pl.DataFrame:
    """Return the verdicts without quarantined copies of instances that are in the data store.

    Parameters
    ----------
    verdicts
        Rows of the verdicts dataset.
    in_store
        SOPInstanceUIDs of instances that are imported: their studies lack nothing if a second copy is quarantined.
    """
    second = (pl.col("verdict") == Verdict.QUARANTINE) & pl.col(_UID).is_in(in_store.implode())
    return verdicts.filter(~second.fill_null(value=False) | is_held_copy())


def move_held_copies(verdicts: pl.DataFrame, outcomes: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Move the copies that wait for a person's decision from the verdicts to the outcomes, where they block.

    So they hold their studies under their own reason, also a study of which nothing else has come.
    """
    names = [name for name in outcomes.columns if name in verdicts.columns]
    no_warning = pl.lit([], pl.List(pl.String))
    held = verdicts.filter(is_held_copy()).select(*names, blocks=pl.lit(value=True), warnings=no_warning)
    return verdicts.filter(~is_held_copy()), pl.concat([outcomes, held], how="diagonal")


def dispose_held_copy() -> pl.Expr:
    """Return the disposition of a held copy by its study's ``gate``.

    A person who releases the study drops the copy. Without a first copy the study lacks the instance: all its copies
    stay quarantined, so that a redrive can take one of them.
    """
    has_first = pl.col("duplicate_of").is_not_null()
    dropped = (
        pl.when(has_first).then(pl.lit(Disposition.DUPLICATE.value)).otherwise(pl.lit(Disposition.QUARANTINED.value))
    )
    word = pl.when(pl.col("gate") == Gate.RELEASE).then(dropped).otherwise(pl.lit(Disposition.HELD.value))
    return pl.when(is_held_copy()).then(word)
