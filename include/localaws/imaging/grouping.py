"""Assignment of instances to image sets: HealthImaging's primary and non-primary hierarchy."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from localaws.imaging.part10 import Instance

STUDY_ELEMENTS = ("StudyDate", "AccessionNumber", "PatientID", "StudyInstanceUID", "StudyID")
SERIES_ELEMENTS = ("SeriesInstanceUID", "SeriesNumber")

Values = tuple[str, ...]


@dataclass(frozen=True)
class Grouping:
    """The values of the seven grouping elements; an empty value equals an absent one."""

    study: Values
    series: Values

    @classmethod
    def of(cls, *levels: Mapping[str, Any]) -> Grouping:
        """Read the elements from the levels of an instance or of a metadata document."""
        found = {name: value for level in levels for name, value in level.items()}

        def values(names: Iterable[str]) -> Values:
            return tuple(str(found.get(name) or "").strip() for name in names)

        return cls(values(STUDY_ELEMENTS), values(SERIES_ELEMENTS))

    def dump(self) -> str:
        """Return JSON for `load`."""
        return json.dumps([self.study, self.series])

    @classmethod
    def load(cls, text: str) -> Grouping:
        """Read what `dump` wrote."""
        study, series = json.loads(text)
        return cls(tuple(study), tuple(series))

    @property
    def study_uid(self) -> str:
        """Study Instance UID."""
        return self.study[STUDY_ELEMENTS.index("StudyInstanceUID")]

    @property
    def series_uid(self) -> str:
        """Series Instance UID."""
        return self.series[0]


@dataclass
class Group:
    """Instances that go into one image set: an existing primary one, or a new one."""

    grouping: Grouping
    image_set_id: str | None
    is_primary: bool
    instances: list[Instance] = field(default_factory=list)


def group_instances(instances: Iterable[Instance], primaries: Mapping[str, Grouping]) -> list[Group]:
    """Sort instances into image sets.

    An instance joins, or founds, the primary set of its series if its grouping elements equal those of the primary
    sets of its study and series; otherwise it goes into a non-primary set with the others that have its values.

    Parameters
    ----------
    instances : iterable of Instance
        In the order of their keys: where two disagree and no primary exists yet, the first decides.
    primaries : mapping
        Image set id to grouping of every primary set of the studies concerned.
    """
    groups: dict[Grouping, Group] = {}
    series = {grouping.series_uid: (identifier, grouping) for identifier, grouping in primaries.items()}
    studies = {grouping.study_uid: grouping.study for grouping in primaries.values()}
    founded: dict[str, Grouping] = {}
    for instance in instances:
        levels = instance.levels
        grouping = Grouping.of(levels.patient, levels.study, levels.series)
        if grouping not in groups:
            identifier, primary = series.get(grouping.series_uid, (None, founded.get(grouping.series_uid, grouping)))
            agrees = primary == grouping and studies.setdefault(grouping.study_uid, grouping.study) == grouping.study
            if agrees:
                founded[grouping.series_uid] = grouping
            groups[grouping] = Group(grouping, identifier if agrees else None, agrees)
        groups[grouping].instances.append(instance)
    return list(groups.values())
