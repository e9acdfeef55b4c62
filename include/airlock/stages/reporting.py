"""The parts of a run's report that all kinds share: counts, explained reasons, cells of a CSV, sentences for a log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.reasons import OWED_SENTENCES, RELEASED, SENTENCES, Reason
from airlock.records import Disposition
from airlock.stages.buffer import Buffered, find_buffered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airlock.pipelines import Pipeline, Source
    from airlock.run import Run

# What makes a formula of a cell, and of the rest of a cell that a spreadsheet with other separators cuts in two.
_FORMULAS = ((r"^([=+\-@\t\r\n])", "'${1}"), (r"([;\t\r\n])([=+\-@])", "${1}'${2}"))
_TO_QUOTE = r'[",\r\n]'
_NEEDS_CARE = r'^[=+\-@]|[;",\t\r\n]'  # in a cell that is not written as it is; most columns have no such cell
WAITING = "awaiting_publication"
MOST_SITES = 50  # that a count names
OTHER_SITES = "other sites"
_IN_WORDS = {
    "released": "released",
    WAITING: "waiting for their publication",
    "duplicate": "duplicates",
    "stopped": "without an accepted file",
}


def describe_run(run: Run[Pipeline]) -> dict[str, Any]:
    """Return the fields of report.json that say which run it is about."""
    return {
        "pipeline": run.pipeline.name,
        "run_id": run.run_id,
        "run_key": run.key,
        "window": None if run.window is None else [run.window.start.isoformat(), run.window.end.isoformat()],
    }


def count_by_site(source: Source, counter: Mapping[str, int]) -> dict[str, Any]:
    """Return a count of files with its parts by site, highest first.

    Sites are named only if ``source.site_pattern`` says where a key names one: the first folder below the source may
    be named after a patient. Of many sites the smallest are counted together.
    """
    named = by_frequency(counter) if source.site_pattern is not None else {}
    shown = dict(list(named.items())[:MOST_SITES])
    rest = sum(named.values()) - sum(shown.values())
    return {"files": sum(counter.values()), "sites": shown | ({OTHER_SITES: rest} if rest else {})}


def describe_untaken(run: Run[Pipeline]) -> dict[str, Any]:
    """Return the fields of report.json about objects that runs did not take.

    ``listed_too`` are listed objects that earlier runs have settled, or that other runs hold. ``undated`` objects have
    no date in their key, so no run with a window takes them. ``owed`` objects could not be
    taken by earlier runs, and runs try again: ``overdue`` objects are not tried any more by
    themselves; of ``untold`` ones people have not been notified.
    """
    rows = run.ledger.count_owed(run.pipeline.name)
    totals = {name: int(rows[name].sum()) for name in ("waiting", "overdue", "untold")}
    reasons = {
        row["reason"]: {"objects": row["waiting"] + row["overdue"], "overdue": row["overdue"]}
        | {"sentence": OWED_SENTENCES.get(row["reason"], "")}
        for row in rows.to_dicts()
    }
    buffered = find_buffered(run.within("")) or Buffered()
    return {
        "listed_too": {"settled": buffered.settled, "claimed_elsewhere": buffered.claimed_elsewhere},
        "undated": 0 if run.window is None else buffered.undated,
        "owed": totals | {"reasons": reasons},
    }


def count_values(column: pl.Series) -> dict[str, int]:
    """Return how often each value occurs, most frequent first."""
    return by_frequency(dict(column.drop_nulls().value_counts().iter_rows()))


def by_frequency(counter: Mapping[str, int]) -> dict[str, int]:
    """Return the counts, highest first, and then by name."""
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))


def explain_reasons(counter: Mapping[str, int], counted: str = "arrivals") -> dict[str, dict[str, Any]]:
    """Return each reason with its count and its sentence, most frequent first."""
    return {code: {counted: number, "sentence": SENTENCES[code]} for code, number in by_frequency(counter).items()}


def to_csv(rows: pl.DataFrame, columns: Sequence[str], *, head: bool = True) -> str:
    """Return these columns as CSV (RFC 4180), with cells that a spreadsheet would run as a formula made harmless.

    An apostrophe, which is not part of the value, stands before everything that would begin a formula: at the start of
    the cell, and after a semicolon, tab or line break, where a spreadsheet may cut it. Without ``head`` the heading is
    left out.
    """
    advice = pl.col("reason").replace_strict(SENTENCES, default=None, return_dtype=pl.String)
    if "disposition" in rows.columns:
        is_released = (pl.col("disposition") == Disposition.RELEASED.value) & pl.col("reason").is_not_null()
        advice = pl.when(is_released).then(pl.lit(RELEASED)).otherwise(advice)
    return cells_to_csv(rows.with_columns(what_to_do=advice).select(columns), head=head)


def cells_to_csv(table: pl.DataFrame, *, head: bool = True) -> str:
    """Return a table as CSV; see `to_csv`."""
    texts = table.select(pl.col(pl.String).str.contains(_NEEDS_CARE).any()).to_dicts()
    careful = [name for found in texts for name, needs_care in found.items() if needs_care]
    cells = table.with_columns(_quoted(pl.col(careful))) if careful else table
    return cells.write_csv(include_header=head, line_terminator="\r\n", quote_style="never")


def harmless_text(value: str) -> str:
    """Return what `to_csv` makes of a value before it quotes it."""
    return str(pl.select(_harmless(pl.lit(value))).item())


def _harmless(text: pl.Expr) -> pl.Expr:
    for start, apart in _FORMULAS:
        text = text.str.replace_all(start, apart)
    return text


def _quoted(text: pl.Expr) -> pl.Expr:
    """Return each text as a cell: harmless, and quoted where it must be; nothing where it is empty or missing."""
    harmless = _harmless(text)
    quoted = harmless.str.replace_all('"', '""', literal=True).str.replace(r"(?s)\A(.*)\z", '"${1}"')
    return pl.when(harmless.str.contains(_TO_QUOTE)).then(quoted).otherwise(harmless)


def compare_ids(expected: pl.Series, actual: pl.Series) -> dict[str, int]:
    """Return how the ids of a step differ from those that it must have, as counts in words."""
    strangers = actual.len() - int(actual.is_in(expected.implode()).sum())
    repeated = actual.len() - actual.n_unique()
    # As many distinct ids, all of which are expected, leave none out.
    whole = not strangers and not repeated and actual.len() == expected.len()
    missing = 0 if whole else expected.len() - int(expected.is_in(actual.implode()).sum())
    return {"are missing": missing, "do not belong there": strangers, "occur more than once": repeated}


def describe_imbalances(found: Mapping[tuple[str, str], int], counted: str = "arrivals") -> list[str]:
    """Return a sentence for each imbalance, by step and in words, without identifiers; none for a count of zero."""
    return [f"{step}: {number} {counted} {what}" for (step, what), number in found.items() if number]


def counted_apart(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report in which studies and files that only wait for publication in HealthLake are counted apart."""
    files = report["reasons"].get(str(Reason.NOT_PUBLISHED), {}).get("arrivals", 0)
    studies = report.get("publication", {}).get("waiting", 0)
    waiting = {name: number for name, number in (("dispositions", files), ("studies", studies)) if number}
    apart = {
        name: report[name] | {"held": report[name]["held"] - number, WAITING: number}
        for name, number in waiting.items()
    }
    return report | apart


def summarize(report: dict[str, Any]) -> list[str]:
    """Return a report in a few sentences for a log."""
    books = "The books balance" if report["balanced"] else "The books do not balance, so everything is held"
    subjects = [name for name in ("studies", "patients", "files") if name in report]
    overdue = report.get("owed", {}).get("overdue", 0)
    return [
        f"{books}. Of {describe_units(report)}: {_describe_counts(report['dispositions'])}.",
        *(f"{name.capitalize()}: {_describe_counts(report[name])}." for name in subjects),
        *describe_unattributed(report),
        *describe_undated(report),
        *([f"Overdue objects: {overdue}. See airlock held."] if overdue else []),
    ]


def describe_briefly(report: Mapping[str, Any]) -> str:
    """Return a report in a line, as ``balanced, 369 of 509 released, 19 held, 104 rejected``."""
    counts = report["dispositions"]
    numbers = {name: counts.get(name, 0) for name in ("held", WAITING, "failed", "parked")}
    numbers["rejected"] = counts.get("quarantined", 0)
    others = [f"{number} {_IN_WORDS.get(name, name)}" for name, number in numbers.items() if number]
    books = "balanced" if report["balanced"] else "NOT BALANCED"
    return ", ".join([books, f"{counts.get('released', 0)} of {sum(counts.values())} released", *others])


def describe_unattributed(report: Mapping[str, Any]) -> list[str]:
    """Return a sentence about the unread files that hold no study; none if there are none."""
    unattributed = report.get("unattributed", {"files": 0})
    if not unattributed["files"]:
        return []
    sites = ", ".join(f"{site or 'no site'} {number}" for site, number in unattributed["sites"].items())
    by_site = f", by site: {sites}" if sites else ""
    return [f"Unattributed: {unattributed['files']} (not readable, and of no known study){by_site}."]


def describe_undated(report: Mapping[str, Any]) -> list[str]:
    """Return a sentence about the objects without a date in their key; none if there are none."""
    undated = report.get("undated", 0)
    return (
        [f"Undated: {undated} objects have no valid date in their key, so the run did not take them."]
        if undated
        else []
    )


def describe_units(report: dict[str, Any]) -> str:
    """Return in words how many files, or units in files, a report has a disposition for."""
    if "resources" not in report:
        return f"{report['arrivals']:,} files"
    units = sum(report["dispositions"].values())
    return f"{units:,} units in {report['arrivals']:,} files ({report['resources']:,} resources)"


def _describe_counts(counts: dict[str, int]) -> str:
    """Return counts in words: first, in any case, the released, then the waiting, then the rest as it stands."""
    first = {name: counts.get(name, 0) for name in ("released", WAITING)}
    named = (first | counts).items()
    words = ((n, _IN_WORDS.get(name, name)) for name, n in named if n or name == "released")
    return ", ".join(f"{n:,} {word.removesuffix('s') if n == 1 else word}" for n, word in words)
