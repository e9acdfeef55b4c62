"""Data-transformation profiles: a draft that changes, and published versions that do not."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from localaws.errors import AwsError, invalid, not_found
from localaws.paging import cut_page
from localaws.resources import new_id
from localaws.rows import require_row
from localaws.shapes import drop_none
from localaws.tags import put_tags
from localaws.tokens import find_replayed, remember_token

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

    from localaws.protocol import Params, Result
    from localaws.runtime import Runtime
    from localaws.settings import Seed, Settings

DRAFT = 0
TARGET_FORMAT = "FHIR_R4"
STARTER = "ccda-starter-kit-v1"
STARTER_MAPPING = {
    "README.md": f"Stands for {STARTER}, whose files are AWS's own. localaws converts with ccda-to-fhir, whatever a "
    "profile's mapping says."
}
CREATE = "CreateDataTransformationProfile"

MOST_FILES, LONGEST_KEY, LONGEST_VALUE = 500, 500, 102_400
"""Limits of the model's ``ProfileMapping``; the map inside ``Source`` has none there."""


def profile_arn(settings: Settings, profile_id: str) -> str:
    """Return the ARN of a profile, as the model's pattern for tagged resources has it."""
    return f"arn:aws:healthlake:{settings.region}:{settings.account}:dataTransformationProfile/{profile_id}"


def profile_row(connection: sqlite3.Connection, profile_id: str) -> sqlite3.Row:
    """Return the row of a profile.

    Raises
    ------
    AwsError
        ResourceNotFoundException.
    """
    return require_row(connection, "transformation_profile", profile_id, "data transformation profile")


def latest_version(connection: sqlite3.Connection, profile_id: str) -> int:
    """Return the number of the latest published version, 0 if there is none."""
    query = "SELECT max(version) FROM transformation_profile_version WHERE profile_id = ?"
    (version,) = connection.execute(query, (profile_id,)).fetchone()
    return int(version or DRAFT)


def version_row(connection: sqlite3.Connection, profile_id: str, version: int) -> sqlite3.Row:
    """Return the row of a version, 0 for the draft.

    Raises
    ------
    AwsError
        ResourceNotFoundException.
    """
    query = "SELECT * FROM transformation_profile_version WHERE profile_id = ? AND version = ?"
    row: sqlite3.Row | None = connection.execute(query, (profile_id, version)).fetchone()
    if row is None:
        raise not_found("data transformation profile version", f"{profile_id}/{version}")
    return row


class Profiles:
    """The seven operations on profiles that need no agent."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._sources: dict[str, Callable[[sqlite3.Connection, str, Params], Mapping[str, str]]] = {
            "StarterProfile": _starter,
            "ExistingVersionedProfileId": _clone,
            "ProfileMapping": _raw,
            "SampleData": _sample,
        }

    def seed(self, seed: Seed) -> None:
        """Make a profile with a fixed identifier, its version 1 published from the starter, unless it exists."""
        profile_id, now = seed.id, time.time()
        with self._runtime.state.write() as connection:
            made = connection.execute(
                "INSERT OR IGNORE INTO transformation_profile VALUES (?, ?, NULL, 'CCDA', NULL, ?)",
                (profile_id, seed.name, now),
            )
            for version in (DRAFT, 1) if made.rowcount else ():
                _write_version(connection, profile_id, version, STARTER_MAPPING, None)

    def create(self, params: Params) -> Result:
        """Answer CreateDataTransformationProfile; the same client token and parameters again answer the first one."""
        with self._runtime.state.write() as connection:
            profile_id = find_replayed(connection, CREATE, params)
            if profile_id is None:
                profile_id = self._insert(connection, params)
                remember_token(connection, CREATE, params, profile_id)
            profile = profile_row(connection, profile_id)
        return {**_named(profile), "Version": DRAFT}

    def _insert(self, connection: sqlite3.Connection, params: Params) -> str:
        (count,) = connection.execute("SELECT count(*) FROM transformation_profile").fetchone()
        if count >= self._runtime.settings.max_profiles:
            message = (
                f"This account has its {self._runtime.settings.max_profiles} data transformation profiles already."
            )
            raise AwsError("ServiceQuotaExceededException", message)
        source_format = params["SourceFormat"]
        ((kind, source),) = params["Source"].items()
        mapping = self._sources[kind](connection, source_format, source)
        profile_id, now = new_id(), time.time()
        values = (params["ProfileName"], params.get("ProfileDescription"), source_format, params.get("KmsKeyId"), now)
        connection.execute("INSERT INTO transformation_profile VALUES (?, ?, ?, ?, ?, ?)", (profile_id, *values))
        _write_version(connection, profile_id, DRAFT, mapping, None)
        put_tags(connection, profile_arn(self._runtime.settings, profile_id), params.get("Tags", {}))
        return profile_id

    def update(self, params: Params) -> Result:
        """Answer UpdateDataTransformationProfile: the mapping replaces the draft's."""
        with self._runtime.state.write() as connection:
            profile_row(connection, params["ProfileId"])
            changed = params.get("ChangeDescription")
            _write_version(connection, params["ProfileId"], DRAFT, params["ProfileMapping"], changed)
            profile = profile_row(connection, params["ProfileId"])
        return _named(profile)

    def publish(self, params: Params) -> Result:
        """Answer PublishDataTransformationProfile: the draft, or an older version, becomes the next version."""
        profile_id = params["ProfileId"]
        with self._runtime.state.write() as connection:
            _check_format(profile_row(connection, profile_id), params["SourceFormat"])
            source = version_row(connection, profile_id, params.get("FromExistingVersion", DRAFT))
            version = latest_version(connection, profile_id) + 1
            if version > self._runtime.settings.max_versions_per_profile:
                message = f"The profile {profile_id} has its {version - 1} versions already."
                raise AwsError("ServiceQuotaExceededException", message)
            changed = params.get("ChangeDescription", source["change_description"])
            _write_version(connection, profile_id, version, _mapping(source), changed)
            profile = profile_row(connection, profile_id)
        return {**_named(profile), "Version": version}

    def get(self, params: Params) -> Result:
        """Answer GetDataTransformationProfile: the latest published version unless one is named."""
        profile_id = params["ProfileId"]
        with self._runtime.state.read() as connection:
            profile = profile_row(connection, profile_id)
            number = params.get("ProfileVersion", latest_version(connection, profile_id))
            if "ProfileVersion" not in params and number == DRAFT:
                raise not_found("published version of the data transformation profile", profile_id)
            version = version_row(connection, profile_id, number)
        details = {
            "ProfileMapping": _mapping(version),
            "ProfileDescription": profile["description"],
            "ChangeDescription": version["change_description"],
        }
        return {**_versioned(profile, version), **drop_none(details)}

    def list_profiles(self, params: Params) -> Result:
        """Answer ListDataTransformationProfiles, by name: each with its latest published version, else its draft."""
        query = "SELECT * FROM transformation_profile WHERE source_format = ? ORDER BY name, id"
        with self._runtime.state.read() as connection:
            profiles = connection.execute(query, (params["SourceFormat"],)).fetchall()
            shown, token = cut_page(profiles, params, "MaxResults", "NextToken")
            return {"Items": [self._summary(connection, profile) for profile in shown], **token}

    @staticmethod
    def _summary(connection: sqlite3.Connection, profile: sqlite3.Row) -> Result:
        version = version_row(connection, profile["id"], latest_version(connection, profile["id"]))
        return {**_versioned(profile, version), **drop_none({"ProfileDescription": profile["description"]})}

    def list_versions(self, params: Params) -> Result:
        """Answer ListDataTransformationProfileVersions, newest first; the draft comes last."""
        query = "SELECT * FROM transformation_profile_version WHERE profile_id = ? ORDER BY version DESC"
        with self._runtime.state.read() as connection:
            profile = profile_row(connection, params["ProfileId"])
            versions = connection.execute(query, (params["ProfileId"],)).fetchall()
        shown, token = cut_page(versions, params, "MaxResults", "NextToken")
        items = [
            {**_versioned(profile, version), **drop_none({"ChangeDescription": version["change_description"]})}
            for version in shown
        ]
        return {"Items": items, **token}

    def delete(self, params: Params) -> Result:
        """Answer DeleteDataTransformationProfile: every version goes."""
        with self._runtime.state.write() as connection:
            profile = profile_row(connection, params["ProfileId"])
            connection.execute("DELETE FROM transformation_profile WHERE id = ?", (profile["id"],))
            connection.execute("DELETE FROM tag WHERE arn = ?", (profile_arn(self._runtime.settings, profile["id"]),))
        return {"ProfileId": profile["id"], "ProfileName": profile["name"], "DeletionTime": time.time()}


def _starter(_connection: sqlite3.Connection, source_format: str, source: Params) -> Mapping[str, str]:
    if source_format != "CCDA" or source["StarterProfileName"] != STARTER:
        raise invalid(f"$.Source.StarterProfile: the one starter profile is {STARTER}, for SourceFormat CCDA")
    return STARTER_MAPPING


def _clone(connection: sqlite3.Connection, source_format: str, source: Params) -> Mapping[str, str]:
    _check_format(profile_row(connection, source["ProfileId"]), source_format)
    return _mapping(version_row(connection, source["ProfileId"], source["Version"]))


def _raw(_connection: sqlite3.Connection, _source_format: str, source: Params) -> Mapping[str, str]:
    mapping: Mapping[str, str] = source["ProfileMapping"]
    fits = all(1 <= len(key) <= LONGEST_KEY and len(value) <= LONGEST_VALUE for key, value in mapping.items())
    if not fits or not 1 <= len(mapping) <= MOST_FILES:
        message = (
            f"1 to {MOST_FILES} files, names of 1 to {LONGEST_KEY} and contents of up to {LONGEST_VALUE} characters"
        )
        raise invalid(f"$.Source.ProfileMapping.ProfileMapping: must hold {message}")
    return mapping


def _sample(_connection: sqlite3.Connection, source_format: str, _source: Params) -> Mapping[str, str]:
    if source_format != "CSV":
        raise invalid("$.Source.SampleData: is for SourceFormat CSV; use StarterProfile or ProfileMapping for CCDA")
    return {}


def _check_format(profile: sqlite3.Row, source_format: str) -> None:
    if profile["source_format"] != source_format:
        raise invalid(f"$.SourceFormat: the profile {profile['id']} is for {profile['source_format']}")


def _write_version(
    connection: sqlite3.Connection, profile_id: str, version: int, mapping: Mapping[str, str], changed: str | None
) -> None:
    now = time.time()
    connection.execute(
        "INSERT OR REPLACE INTO transformation_profile_version VALUES (?, ?, ?, ?, ?)",
        (profile_id, version, json.dumps(mapping), changed, now),
    )
    connection.execute("UPDATE transformation_profile SET updated_at = ? WHERE id = ?", (now, profile_id))


def _mapping(version: sqlite3.Row) -> Mapping[str, str]:
    """Return the files of a version; the model knows no answer for a draft without any."""
    mapping: Mapping[str, str] = json.loads(version["mapping"])
    if not mapping:
        message = "has no mapping yet; give it one with UpdateDataTransformationProfile"
        raise invalid(f"$.ProfileId: version {version['version']} of {version['profile_id']} {message}")
    return mapping


def _named(profile: sqlite3.Row) -> Result:
    return {
        "ProfileId": profile["id"],
        "SourceFormat": profile["source_format"],
        "TargetFormat": TARGET_FORMAT,
        "ProfileName": profile["name"],
        "LastUpdatedAt": profile["updated_at"],
    }


def _versioned(profile: sqlite3.Row, version: sqlite3.Row) -> Result:
    return {**_named(profile), "Version": version["version"], "LastUpdatedAt": version["updated_at"]}
