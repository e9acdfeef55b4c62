"""Differences between a ledger, S3 and HealthImaging, made on purpose; each maker returns the findings it causes."""

from __future__ import annotations

import gzip
import json
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, select

from airlock.ledger.database import reading, writing
from airlock.ledger.tables import arrivals, instances, jobs, releases
from airlock.records import study_key
from airlock.storage.s3uri import S3Uri
from tests.chain import DATASTORE, ROLE
from tests.dicom_files import ct, sop_uid, study_uid
from tests.integration.reconciling import imaging_client
from tests.servers.objects import date_objects
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airlock.ledger import Ledger
    from tests.chain import Place

Found = set[tuple[str, str]]  # kind and subject
OTHER = "0" * 32  # another data store
INSTANCES = 2  # of each study, in one series


def name_of(study: int, instance: int) -> str:
    """Return the name of a file of the delivery."""
    return f"study-{study:04}/{instance}.dcm"


def deliver(studies: int) -> dict[str, bytes]:
    """Return a delivery of so many studies."""
    return {
        name_of(study, number): ct(study, 1, number)
        for study in range(1, studies + 1)
        for number in range(1, INSTANCES + 1)
    }


@dataclass
class Differences:
    """A place after a run, in which differences are made; each maker gets the numbers of the studies to change."""

    place: Place
    state: Path  # of the emulator
    ledger: Ledger
    foreign: int = field(default=0)  # how many foreign deliveries were made

    @cached_property
    def client(self) -> Any:
        """The emulator's client."""
        return imaging_client(self.place)

    def makers(self) -> list[tuple[Callable[[list[int]], Found], ...]]:
        """Return the makers of each kind of difference; those in one group can change the same studies."""
        return [
            (self.delete_sets,),
            (self.import_foreign_studies, self.delete_objects),
            (self.import_foreign_series, self.replace_objects),
            (self.update_metadata, self.delete_payloads),
            (self.import_foreign_instances,),
            (self.lose_instances,),
            (self.change_patients, self.change_pixels),
            (self.delete_instances,),
            (self.delete_arrivals,),
        ]

    def image_set(self, study: int) -> str:
        """Return the image set of a study by the ledger."""
        statement = select(instances.c.image_set_id).where(instances.c.StudyInstanceUID == study_uid(study))
        with reading(self.ledger._engine) as connection:
            return str(connection.scalars(statement).first())

    def delete_sets(self, studies: list[int]) -> Found:
        found: Found = set()
        for study in studies:
            self.client.delete_image_set(datastoreId=DATASTORE, imageSetId=self.image_set(study))
            found |= {("missing_in_store", sop_uid(study, 1, number)) for number in range(1, INSTANCES + 1)}
        return found

    def import_foreign_studies(self, studies: list[int]) -> Found:
        """Import studies of others; the numbers are of unknown studies."""
        new = self._import({f"{study}.dcm": ct(50_000 + study, 1, 1) for study in studies})
        return {("foreign_in_store", name) for name in new}

    def import_foreign_series(self, studies: list[int]) -> Found:
        new = self._import({f"{study}.dcm": ct(study, 7, 1) for study in studies})
        return {("foreign_in_store", name) for name in new}

    def import_foreign_instances(self, studies: list[int]) -> Found:
        self._import({f"{study}.dcm": ct(study, 1, 77) for study in studies})
        sets = [self.image_set(study) for study in studies]
        return {(kind, name) for name in sets for kind in ("other_version", "other_instance_count")}

    def update_metadata(self, studies: list[int]) -> Found:
        changes = json.dumps({"SchemaVersion": 1.1, "Study": {"DICOM": {"StudyDescription": "CHANGED"}}}).encode()
        found: Found = set()
        for study in studies:
            self.client.update_image_set_metadata(
                datastoreId=DATASTORE,
                imageSetId=self.image_set(study),
                latestVersionId="1",
                updateImageSetMetadataUpdates={"DICOMUpdates": {"updatableAttributes": changes}},
            )
            found.add(("other_version", self.image_set(study)))
        return found

    def move(self, study: int, uid: str) -> Found:
        """Move a study's image set, as non-primary, to the study of this StudyInstanceUID."""
        self.demote(self.image_set(study))
        changes = json.dumps({"SchemaVersion": 1.1, "Study": {"DICOM": {"StudyInstanceUID": uid}}}).encode()
        self.client.update_image_set_metadata(
            datastoreId=DATASTORE,
            imageSetId=self.image_set(study),
            latestVersionId="1",
            force=True,
            updateImageSetMetadataUpdates={"DICOMUpdates": {"updatableAttributes": changes}},
        )
        return {("other_version", self.image_set(study))}

    def lose_instances(self, studies: list[int]) -> Found:
        found: Found = set()
        for study in studies:
            name, lost = self.image_set(study), sop_uid(study, 1, 2)
            with self._document(name) as document:
                (series,) = document["Study"]["Series"].values()
                del series["Instances"][lost]
            found |= {("other_instance_count", name), ("missing_in_store", lost)}
        return found

    def change_patients(self, studies: list[int]) -> Found:
        for study in studies:
            with self._document(self.image_set(study)) as document:
                document["Patient"]["DICOM"]["PatientID"] = "SOMEBODY ELSE"
        return {("other_content", self.image_set(study)) for study in studies}

    def change_pixels(self, studies: list[int]) -> Found:
        for study in studies:
            with self._document(self.image_set(study)) as document:
                (series,) = document["Study"]["Series"].values()
                (frame,) = series["Instances"][sop_uid(study, 1, 2)]["ImageFrames"]
                frame["PixelDataChecksumFromBaseToFullResolution"][-1]["Checksum"] += 1
        return {("other_content", sop_uid(study, 1, 2)) for study in studies}

    def delete_objects(self, studies: list[int]) -> Found:
        for study in studies:
            self.place.s3().delete_object(Bucket="archive", Key=f"in/{name_of(study, 1)}")
        return {("vanished", self.arrival(study)) for study in studies}

    def replace_objects(self, studies: list[int]) -> Found:
        for study in studies:
            self.place.put({name_of(study, 1): ct(study, 1, 1, pixel=9)})
            date_objects("archive", [f"in/{name_of(study, 1)}"], datetime.now(UTC) - timedelta(days=30))
        return {("other_content", self.arrival(study)) for study in studies}

    def delete_payloads(self, studies: list[int]) -> Found:
        for study in studies:
            statement = select(releases.c.payload_uri).where(releases.c.subject_key == study_key(study_uid(study)))
            with reading(self.ledger._engine) as connection:
                address = S3Uri.parse(str(connection.scalars(statement).one()))
            self.place.s3().delete_object(Bucket=address.bucket, Key=address.key)
        return {("no_evidence", f"contract of {study_key(study_uid(study))} in nightly") for study in studies}

    def delete_instances(self, studies: list[int]) -> Found:
        """Delete the ledger's row of one instance; its image set then has one more than the ledger knows."""
        found: Found = set()
        for study in studies:
            found.add(("other_instance_count", self.image_set(study)))
            found.add(("no_evidence", f"instances of {study_key(study_uid(study))}"))
            with writing(self.ledger._engine) as connection:
                connection.execute(delete(instances).where(instances.c.SOPInstanceUID == sop_uid(study, 1, 2)))
        return found

    def delete_arrivals(self, studies: list[int]) -> Found:
        for study in studies:
            gone = self.arrival(study)
            with writing(self.ledger._engine) as connection:
                connection.execute(delete(arrivals).where(arrivals.c.arrival_id == gone))
        return {("no_evidence", f"arrivals of {study_key(study_uid(study))}") for study in studies}

    def delete_outputs(self, number: int) -> Found:
        """Delete the outputs of so many batches, with the copies that audit has kept."""
        with reading(self.ledger._engine) as connection:
            rows = connection.execute(select(jobs.c.batch_id, jobs.c.output_uri).limit(number)).all()
        for batch, address in rows:
            for bucket, prefix in (("output", S3Uri.parse(address).key), ("workspace", "runs/nightly/")):
                for key in self.place.keys(bucket, prefix):
                    if bucket == "output" or (key.rpartition("/")[2].startswith(batch) and "/outputs/" in key):
                        self.place.s3().delete_object(Bucket=bucket, Key=key)
        return {("no_evidence", f"output of batch {batch}") for batch, _ in rows}

    def arrival(self, study: int) -> str:
        """Return the arrival of a study's first instance."""
        statement = select(instances.c.arrival_id).where(instances.c.SOPInstanceUID == sop_uid(study, 1, 1))
        with reading(self.ledger._engine) as connection:
            return str(connection.scalars(statement).one())

    @contextmanager
    def hidden(self, image_set: str) -> Iterator[None]:
        """Let the service answer as if an image set did not exist."""
        for before, after in ((DATASTORE, OTHER), (OTHER, DATASTORE)):
            change = "UPDATE image_set SET datastore_id = ? WHERE id = ? AND datastore_id = ?"
            self._alter(change, after, image_set, before)
            if after == OTHER:
                yield

    @contextmanager
    def locked(self, image_set: str) -> Iterator[None]:
        """Let an image set be in change."""
        for state in ("LOCKED", "ACTIVE"):
            self._alter("UPDATE image_set_version SET state = ? WHERE image_set_id = ?", state, image_set)
            if state == "LOCKED":
                yield

    def demote(self, image_set: str) -> None:
        """Let an image set no longer be the primary one of its study."""
        for table, name in (("image_set", "id"), ("image_set_version", "image_set_id")):
            self._alter(f"UPDATE {table} SET is_primary = 0 WHERE {name} = ?", image_set)  # our own text

    def _alter(self, change: str, *values: Any) -> None:
        with closing(sqlite3.connect(self.state, timeout=60)) as connection:
            connection.execute(change, values)
            connection.commit()

    def settle(self) -> None:
        """Wait until no image set is being changed."""
        query = "SELECT count(*) FROM image_set_version WHERE state = 'LOCKED'"

        def is_settled() -> bool:
            with closing(sqlite3.connect(self.state)) as connection:
                return connection.execute(query).fetchone() == (0,)

        until("no image set is being changed", is_settled, 120)

    def _import(self, files: dict[str, bytes]) -> set[str]:
        """Import files as others do, and return the new image sets."""
        self.foreign += 1
        before = self._sets()
        prefix = f"others/{self.foreign}/"
        self.place.put(files, prefix)
        job = self.client.start_dicom_import_job(
            datastoreId=DATASTORE,
            jobName="others",
            dataAccessRoleArn=ROLE,
            clientToken=f"others-{self.foreign}",
            inputS3Uri=f"s3://archive/{prefix}",
            outputS3Uri="s3://output/others/",
        )
        asked = {"datastoreId": DATASTORE, "jobId": job["jobId"]}

        def has_ended() -> bool:
            return bool(self.client.get_dicom_import_job(**asked)["jobProperties"]["jobStatus"] == "COMPLETED")

        until("the others' job has ended", has_ended, 120)
        return self._sets() - before

    def _sets(self) -> set[str]:
        with closing(sqlite3.connect(self.state)) as connection:
            return {name for (name,) in connection.execute("SELECT id FROM image_set")}

    @contextmanager
    def _document(self, image_set: str) -> Iterator[dict[str, Any]]:
        """Change the metadata of an image set's latest version behind the service's back."""
        where = "WHERE image_set_id = ? AND version = (SELECT latest_version FROM image_set WHERE id = ?)"
        names = (image_set, image_set)
        with closing(sqlite3.connect(self.state, timeout=60)) as connection:
            query = f"SELECT document FROM image_set_version {where}"  # our own text
            document = json.loads(gzip.decompress(connection.execute(query, names).fetchone()[0]))
            yield document
            change = f"UPDATE image_set_version SET document = ? {where}"  # our own text
            connection.execute(change, (gzip.compress(json.dumps(document).encode()), *names))
            connection.commit()
