"""The archive while it is assembled: its files, and the expected disposition of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from airlock_local.sample.instances import MAKERS
from airlock_local.sample.sites import SITES, Patient, Site
from airlock_local.sample.studies import DATES, PLAIN_CT, Examination, Study

RELEASED = frozenset({"released"})
HELD = frozenset({"held"})
QUARANTINED = frozenset({"quarantined"})
STOPPED = frozenset({"quarantined", "held"})
SET_ASIDE = frozenset({"quarantined", "ignored"})
ONE_OF_TWO = frozenset({"released", "duplicate"})

WHOLE_STUDY_WAITS = ("study_incomplete", "sibling_unread", "study_held")
"""Reason codes of sound files whose study has a file that is not sound."""


@dataclass(frozen=True)
class Expected:
    """The expected disposition of a file.

    Parameters
    ----------
    trouble
        Short name of the seeded trouble; None for a clean file.
    dispositions
        The correct dispositions; more than one if a pipeline's policy decides.
    reasons
        The reason codes of which a file that is not released must have one; empty if the rules leave it open.
    """

    trouble: str | None
    dispositions: frozenset[str]
    reasons: frozenset[str] = frozenset()


CLEAN = Expected(None, RELEASED)


def expect(trouble: str, dispositions: frozenset[str], *reasons: str) -> Expected:
    """Return the expected disposition of a file with this trouble."""
    return Expected(trouble, dispositions, frozenset(reasons))


@dataclass(frozen=True, kw_only=True)
class SampleFile(Expected):
    """One file of the sample archive and its expected disposition.

    Parameters
    ----------
    path
        Relative to the archive's folder, with forward slashes; begins with the site's folder.
    size
        In bytes.
    modality
        DICOM Modality; None for a file that is not an instance.
    """

    path: str
    size: int
    modality: str | None

    @property
    def site(self) -> str:
        """Folder of the site that the file comes from."""
        return self.path.split("/", 1)[0]


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files below `folder`, by their relative paths."""
    for path, data in sorted(contents.items()):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


class Archive:
    """Makes studies and collects files.

    Parameters
    ----------
    seed
        Decides every UID and every pixel; the same seed makes the same bytes.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._contents: dict[str, bytes] = {}
        self._files: dict[str, SampleFile] = {}
        self._studies = 0

    def study(
        self,
        examination: Examination = PLAIN_CT,
        *,
        site: Site | None = None,
        patient: Patient | None = None,
    ) -> Study:
        """Return a new study, its site, patient and date taken in turn unless given."""
        self._studies += 1
        number = self._studies
        site = site or SITES[number % len(SITES)]
        patient = patient or site.patients[number % len(site.patients)]
        return Study(self.seed, number, site, patient, DATES[number % len(DATES)], examination)

    def add(
        self,
        path: str,
        data: bytes,
        *,
        modality: str | None = None,
        expected: Expected = CLEAN,
    ) -> None:
        """Put one file into the archive.

        Raises
        ------
        ValueError
            Two files have the same path.
        """
        if path in self._files:
            raise ValueError(f"Two files of the sample archive have the path {path!r}. Change the layout of one study.")
        self._contents[path] = data
        self._files[path] = SampleFile(
            trouble=expected.trouble,
            dispositions=expected.dispositions,
            reasons=expected.reasons,
            path=path,
            size=len(data),
            modality=modality,
        )

    def add_instance(
        self,
        study: Study,
        series: int,
        instance: int,
        *,
        data: bytes | None = None,
        expected: Expected = CLEAN,
    ) -> None:
        """Put one instance at its site's path for it; `data` replaces its clean bytes."""
        self.add(
            study.path(series, instance),
            study.file(series, instance) if data is None else data,
            modality=MAKERS[study.plan(series).maker].modality,
            expected=expected,
        )

    def add_study(self, study: Study, expected: Expected = CLEAN, **changes: object) -> None:
        """Put all instances of a study into the archive, with `changes` made to each."""
        for series, plan in enumerate(study.examination.series, 1):
            for instance in range(1, plan.instances + 1):
                data = study.file(series, instance, **changes)
                self.add_instance(study, series, instance, data=data, expected=expected)

    def write(self, folder: Path) -> list[SampleFile]:
        """Write all files below `folder` and return them ordered by path."""
        write_files(folder, self._contents)
        return [self._files[path] for path in sorted(self._files)]
