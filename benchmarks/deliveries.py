"""Synthetic deliveries, as buffer and parse write them, and the output of their batches' import jobs.

A CT archive: 200 instances in a series, five series in two studies, UIDs of 64 characters, all 28 attributes. One
study in forty has a trouble, in one of its series (all of `TROUBLES` in turn), so that about one arrival in a hundred
has one. The rows of a number are the same every time, with one version of polars.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.records import ARRIVALS, ATTRIBUTES, HEADERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polars._typing import IntoExpr

PER_SERIES = 200
SERIES_IN_TWO_STUDIES = 5
SIZE = 526_618  # bytes: 512 x 512 pixels of 16 bits, and a header
CHUNK = 200_000  # rows made at a time, whole series
_ROOT = "1.2.826.0.1.3680043.8.498."
_TROUBLED = 40  # one study in so many


@dataclass(frozen=True)
class Trouble:
    """A fault of a series: the columns that differ in the first ``share`` of its files."""

    name: str
    columns: dict[str, IntoExpr]
    share: float = 1.0
    unread: bool = False  # no attribute was read


def _unread(reason: str, share: float) -> Trouble:
    return Trouble(reason, {"reason": pl.lit(reason)}, share, unread=True)


def _without(keyword: str) -> Trouble:
    return Trouble(f"missing {keyword}", {keyword: pl.lit(None, pl.String)}, 0.1)


def _differs(keyword: str, share: float = 0.5) -> Trouble:
    return Trouble(f"other {keyword}", {keyword: pl.lit("7")}, share)


_IMAGE = pl.col("n") % PER_SERIES
_TWIN = pl.col("n") - PER_SERIES // 2  # of the second half of a series, in the first half


def _uid(number: pl.Expr, kind: int) -> pl.Expr:
    """Return UIDs of 64 characters (PS3.5 section 9.1), one per number."""
    high = (number.hash(kind) % 10**18).cast(pl.String).str.zfill(18)
    low = (number.hash(kind + 1) % 10**19).cast(pl.String).str.zfill(19)
    return pl.concat_str(pl.lit(f"{_ROOT}1"), high, low)


def _of_twin(column: pl.Expr, otherwise: str) -> pl.Expr:
    return pl.when(_IMAGE >= PER_SERIES // 2).then(column).otherwise(otherwise)


_SOP, _SERIES, _STUDY = 10, 20, 30  # kinds of UIDs
_COPIES = _of_twin(_uid(_TWIN, _SOP), "SOPInstanceUID")
_SERIES_BEFORE = pl.col("n") // PER_SERIES - 1

TROUBLES = (
    _unread("sidecar", 0.05),
    _unread("not_dicom", 0.1),
    _unread("truncated", 0.1),
    _unread("unreadable", 0.05),
    _unread("object_gone", 0.05),
    _without("SOPInstanceUID"),
    _without("StudyInstanceUID"),
    _without("SeriesInstanceUID"),
    _without("SOPClassUID"),
    _without("TransferSyntaxUID"),
    Trouble("file too large", {"size": pl.lit(11 * 1000**3, pl.Int64)}, 0.02),
    Trouble("element too long", {"StudyID": pl.lit("9" * 300)}, 0.1),
    Trouble("count out of range", {"NumberOfStudyRelatedInstances": pl.lit("2000000")}, 0.1),
    Trouble("invalid UID", {"SOPInstanceUID": pl.concat_str("SOPInstanceUID", pl.lit(".01"))}),
    Trouble("unknown transfer syntax", {"TransferSyntaxUID": pl.lit("1.2.840.10008.1.2.9")}),
    Trouble("undecodable text", {"warning": pl.lit("undecodable_text"), "detail": pl.lit("PatientName")}),
    Trouble("same copies", {"SOPInstanceUID": _COPIES, "etag": pl.lit("e" * 32)}),
    Trouble("other copies", {"SOPInstanceUID": _COPIES}),
    _differs("PatientID"),
    _differs("IssuerOfPatientID"),
    _differs("StudyDate"),
    _differs("AccessionNumber"),
    _differs("StudyID"),
    _differs("SeriesNumber"),
    Trouble("series in two studies", {"SeriesInstanceUID": _uid(_SERIES_BEFORE, _SERIES)}, 0.1),
    Trouble("delivered before", {}),
    Trouble("delivered before with other content", {}),
    Trouble("study known with another PatientID", {}),
)
BEFORE, BEFORE_OTHER, BEFORE_PATIENT = range(len(TROUBLES) - 3, len(TROUBLES))


def frames(arrivals: int, chunk: int = CHUNK) -> Iterator[pl.DataFrame]:
    """Yield a delivery in the order of its keys: the columns of ARRIVALS and of HEADERS, ``n`` and ``trouble``."""
    for first in range(0, arrivals, chunk):
        yield _frame(first, min(chunk, arrivals - first))


def _frame(first: int, rows: int) -> pl.DataFrame:
    numbers = pl.DataFrame({"n": pl.int_range(first, first + rows, dtype=pl.Int64, eager=True)})
    series = pl.col("n") // PER_SERIES
    study = series * 2 // SERIES_IN_TWO_STUDIES
    first_series = -(-study * SERIES_IN_TWO_STUDIES // 2)
    troubled = (study % _TROUBLED == 0) & (series == first_series)
    which = (study // _TROUBLED) % len(TROUBLES)
    files = {number: int(item.share * PER_SERIES) for number, item in enumerate(TROUBLES)}
    has_it = troubled & (which.replace_strict(files, return_dtype=pl.Int64) > _IMAGE)
    named = numbers.with_columns(series=series, study=study, trouble=pl.when(has_it).then(which))
    plain = named.with_columns(**_arrival(first, rows), **_attributes(), **_parsed())
    return _with_troubles(plain).drop("series", "study")


def _arrival(first: int, rows: int) -> dict[str, IntoExpr]:
    study, series = pl.col("study").cast(pl.String).str.zfill(7), pl.col("series").cast(pl.String).str.zfill(8)
    image = (_IMAGE + 1).cast(pl.String).str.zfill(6)
    return {
        "arrival_id": _hex(f"arrivals {first}", rows),
        "bucket": pl.lit("archive"),
        "key": pl.format("in/{}/{}/IM{}.dcm", study, series, image),
        "version_id": pl.lit(None, pl.String),
        "etag": _hex(f"etags {first}", rows),
        "size": pl.lit(SIZE, pl.Int64) + pl.col("n") % 512 * 2,
        "last_modified": pl.lit(datetime(2026, 11, 23, 22, tzinfo=UTC)).cast(ARRIVALS["last_modified"]),
    }


def _hex(seed: str, rows: int) -> pl.Series:
    digits = random.Random(seed).randbytes(16 * rows).hex()  # noqa: S311  # no secret
    return pl.Series([digits[start : start + 32] for start in range(0, len(digits), 32)], dtype=pl.String)


def _attributes() -> dict[str, pl.Expr]:
    study, series = pl.col("study"), pl.col("series")
    constant = {
        "TransferSyntaxUID": "1.2.840.10008.1.2.1",
        "SpecificCharacterSet": "ISO_IR 100",
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "Modality": "CT",
        "InstitutionName": "General Hospital",
        "StationName": "CT01",
        "StudyDescription": "CT Thorax/Abdomen",
        "IssuerOfPatientID": "HOSPITAL",
        "BodyPartExamined": "CHEST",
        "ImageType": "ORIGINAL\\PRIMARY\\AXIAL",
        "ProcedureCodeSequence": "CTTHX\\L\\CT Thorax",
        "NumberOfStudyRelatedSeries": "3",
        "NumberOfStudyRelatedInstances": "600",
    }
    text = {name: pl.lit(value) for name, value in constant.items()} | {
        "SOPInstanceUID": _uid(pl.col("n"), _SOP),
        "SeriesInstanceUID": _uid(series, _SERIES),
        "StudyInstanceUID": _uid(study, _STUDY),
        "StudyDate": pl.format("202611{}", (study % 28 + 1).cast(pl.String).str.zfill(2)),
        "StudyTime": (study.hash(1) % 1_000_000 + 10_000_000).cast(pl.String).str.slice(2),
        "AccessionNumber": pl.format("A{}", study.cast(pl.String).str.zfill(9)),
        "ReferringPhysicianName": pl.format("REFERRER^{}", study % 97),
        "SeriesDescription": pl.format("Thorax {} mm B30f", series % 5 + 1),
        "PatientName": pl.format("SYNTHETIC^{}", study // 2),
        "PatientID": pl.format("P{}", (study // 2).cast(pl.String).str.zfill(8)),
        "PatientBirthDate": pl.format("19{}0101", (study % 70 + 20).cast(pl.String)),
        "PatientSex": pl.when(study % 2 == 0).then(pl.lit("F")).otherwise(pl.lit("M")),
        "StudyID": (study % 100_000).cast(pl.String),
        "SeriesNumber": (series % SERIES_IN_TWO_STUDIES + 1).cast(pl.String),
        "InstanceNumber": (_IMAGE + 1).cast(pl.String),
        "RequestedProcedureID": pl.format("RP{}", study),
    }
    return {name: text.get(name, pl.lit(None, pl.String)) for name in ATTRIBUTES}


def _parsed() -> dict[str, pl.Expr]:
    """Return the other columns that parse writes for a header that was read in one request and without a doubt."""
    costs = {"bytes_read": 16_384, "requests": 1}
    rest = {name: kind for name, kind in HEADERS.items() if name not in {"arrival_id", *ATTRIBUTES}}
    return {name: pl.lit(costs.get(name), kind) for name, kind in rest.items()}


def _with_troubles(rows: pl.DataFrame) -> pl.DataFrame:
    changed: dict[str, pl.Expr] = {}
    unread = pl.col("trouble").is_in([number for number, item in enumerate(TROUBLES) if item.unread])
    for number, item in enumerate(TROUBLES):
        for name, value in item.columns.items():
            known = changed.get(name, pl.col(name))
            changed[name] = pl.when(pl.col("trouble") == number).then(value).otherwise(known)
    for name in ATTRIBUTES:
        changed[name] = pl.when(unread.fill_null(value=False)).then(None).otherwise(changed.get(name, pl.col(name)))
    return rows.with_columns(**changed)


def split(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return rows of `frames` as those of the datasets ``arrivals`` and ``headers``."""
    return rows.select(ARRIVALS.names()).cast(ARRIVALS), rows.select(HEADERS.names()).cast(HEADERS)


def delivered_before(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of an earlier delivery: a study in fifty, and rows with a trouble under other keys."""
    known = pl.col("trouble").is_in([BEFORE, BEFORE_OTHER])
    other = pl.col("trouble") == BEFORE_PATIENT
    unseen = pl.col("trouble").is_null() & (pl.col("n") // (PER_SERIES * SERIES_IN_TWO_STUDIES) % 50 == 3)
    fresh = unseen | other  # instances that this delivery does not bring again
    return rows.filter(known | fresh).with_columns(
        arrival_id=pl.col("arrival_id").str.reverse(),
        key=pl.concat_str(pl.lit("in/before/"), "key"),
        etag=pl.when(pl.col("trouble") == BEFORE_OTHER).then(pl.lit("f" * 32)).otherwise("etag"),
        SOPInstanceUID=pl.when(fresh).then(_uid(pl.col("n"), 40)).otherwise("SOPInstanceUID"),
        SeriesInstanceUID=pl.when(fresh).then(_uid(pl.col("n") // PER_SERIES, 50)).otherwise("SeriesInstanceUID"),
        StudyInstanceUID=pl.when(unseen).then(_uid(pl.col("n") // 1000, 60)).otherwise("StudyInstanceUID"),
        PatientID=pl.when(other).then(pl.lit("ANOTHER")).otherwise("PatientID"),
    )


# One series in a hundred has one of these outcomes, in its first five files.
OUTCOMES = ("rejected", "server_error", "warned", "harmless", "non_primary", "unnamed")


def job_output(files: pl.DataFrame, job_id: str, datastore_id: str) -> dict[str, Any]:
    """Return the output of a batch's job: ``manifest``, and the lines of ``success``, ``failure`` and ``warning``.

    Parameters
    ----------
    files
        The batch's rows of the dataset ``batches``.
    job_id, datastore_id
        The job and its data store.
    """
    first = pl.int_range(pl.len()).over("SeriesInstanceUID") < 5
    chosen = pl.col("SeriesInstanceUID").hash(70)
    unlucky = (chosen % 100 == 0) & first
    sent = files.filter(pl.col("reason").is_null()).with_columns(
        outcome=pl.when(unlucky).then((chosen // 100 % len(OUTCOMES)).cast(pl.Int64)),
        image_set=pl.concat_str(
            (pl.col("SeriesInstanceUID").hash(71) % 10**16 + 10**16).cast(pl.String),
            (pl.col("SeriesInstanceUID").hash(72) % 10**15 + 10**15).cast(pl.String).str.slice(0, 15),
        ),
    )
    is_ = {name: (pl.col("outcome") == number).fill_null(value=False) for number, name in enumerate(OUTCOMES)}
    other_set = pl.when(is_["non_primary"]).then(pl.col("image_set").str.reverse()).otherwise("image_set")
    sent = sent.with_columns(image_set=other_set, primary=~is_["non_primary"])
    counts = {name: sent.filter(where).height for name, where in is_.items()}
    failed = counts["rejected"] + counts["server_error"] + counts["unnamed"]
    warned = is_["warned"] | is_["harmless"]
    succeeded = sent.filter(~(is_["rejected"] | is_["server_error"] | is_["unnamed"]))
    summary = {
        "jobId": job_id,
        "datastoreId": datastore_id,
        "numberOfScannedFiles": sent.height,
        "numberOfImportedFiles": sent.height - failed,
        "numberOfFilesWithCustomerError": counts["rejected"] + counts["unnamed"],
        "numberOfFilesWithServerError": counts["server_error"],
        "imageSetsSummary": _summaries(succeeded),
    }
    return {
        "manifest": {"jobSummary": summary},
        "success": _lines(succeeded.filter(~warned), _SUCCESS),
        "failure": _lines(sent.filter(is_["rejected"]), _REJECTED) + _lines(sent.filter(is_["server_error"]), _FAILED),
        "warning": _lines(sent.filter(is_["warned"]), _WARNED) + _lines(sent.filter(is_["harmless"]), _HARMLESS),
    }


def _summaries(succeeded: pl.DataFrame) -> list[dict[str, Any]]:
    sets = succeeded.group_by("image_set", maintain_order=True).agg(files=pl.len(), primary=pl.col("primary").all())
    return [
        {"imageSetId": name, "imageSetVersion": 1, "isPrimary": primary, "numberOfMatchedSOPInstances": count}
        for name, count, primary in sets.iter_rows()
    ]


_KEY = '{"inputFile": "<key>", '
_SET = _KEY + '"importResponse": {"imageSetId": "<set>", "imageSetVersion": 1, "isPrimary": <primary>'
_SUCCESS = _SET + "}}"
_WARNED = _SET + ', "warnings": [{"warning_reason_code": 45330, "type": "InvalidOffsetTable", "message": "offsets"}]}}'
_HARMLESS = _SET + ', "warnings": [{"warning_reason_code": 45056, "type": "CoercionOfDataElements", "message": "x"}]}}'
_REJECTED = (
    _KEY + '"exception": {"exceptionType": "ValidationException", "message": "DICOM attributes does not exist"}}'
)
_FAILED = _KEY + '"exception": {"exceptionType": "InternalServerException", "message": "internal error"}}'


def _lines(rows: pl.DataFrame, template: str) -> bytes:
    """Return a line of JSON per row; keys and image set ids here hold no character that JSON escapes."""
    columns = {"<key>": pl.col("staged_key"), "<set>": pl.col("image_set"), "<primary>": pl.col("primary")}
    parts = [template]
    for name in columns:
        parts = [piece for part in parts for piece in _around(part, name)]
    text = rows.select(pl.concat_str(*(columns.get(part, pl.lit(part)) for part in parts))).to_series()
    return "".join(f"{line}\n" for line in text).encode()


def _around(text: str, name: str) -> list[str]:
    before, found, after = text.partition(name)
    return [piece for piece in (before, found, after) if piece]
