"""One DAG run: the stages' functions in the order of the DAG, with Airflow's trigger rules and without Airflow.

The operators in plugins/airlock_tasks do the same: they open the run, call one function of the library and keep its
small result. What a test of the operators covers (deferral, conf, retries) is not repeated here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airlock.clinical import audit as clinical_audit
from airlock.clinical import normalize as clinical_normalize
from airlock.clinical import parked as clinical_parked
from airlock.clinical import parse as clinical_parse
from airlock.clinical import redrive as clinical_redrive
from airlock.clinical import validate as clinical_validate
from airlock.destinations.s3 import S3Folder
from airlock.imaging import audit as imaging_audit
from airlock.imaging import normalize as imaging_normalize
from airlock.imaging import parse as imaging_parse
from airlock.imaging import publication
from airlock.imaging import redrive as imaging_redrive
from airlock.imaging import stage as imaging_stage
from airlock.imaging import validate as imaging_validate
from airlock.imaging.resolve import carry_arrivals
from airlock.pipelines import ImagingPipeline
from airlock.run import Run, source_prefix
from airlock.stages import buffer, receive, route
from airlock.stages.journal import keep_journal
from airlock.stages.redrive import redrive
from airlock.stages.waves import find_next_wave
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from tests.explore.doors import ClientDoor, LedgerDoor, S3Door
from tests.explore.history import PUBLICATION, STAGES
from tests.explore.jobs import HealthLakeJobs, ImagingJobs, import_batch
from tests.explore.scheduler import Actor, Killed
from tests.explore.services import ImageSetReader, MemoryFhir

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from airlock.ledger import Ledger
    from airlock.pipelines import Pipeline
    from airlock.records import Window
    from airlock.run import RedriveRequest, WaveOf
    from tests.explore.clock import Clock
    from tests.explore.memory_s3 import MemoryS3
    from tests.explore.services import Services


class TaskFailedError(RuntimeError):
    """A task ends failed by the operator's own rule: the books do not balance, or arrivals are undecided."""


@dataclass(frozen=True)
class Outside:
    """The world that runs share."""

    clock: Clock
    s3: MemoryS3
    services: Services
    ledger: Ledger


@dataclass(frozen=True)
class RunSpec:
    """A DAG run: who starts it, and what it takes."""

    name: str  # short, for people
    pipeline: Pipeline
    run_id: str
    window: Window | None = None
    prefix: str | None = None
    redrive: RedriveRequest | None = None
    wave: WaveOf | None = None


@dataclass
class DagRun:
    """One DAG run and its thread."""

    spec: RunSpec
    outside: Outside
    actor: Actor
    states: dict[str, str] = field(default_factory=dict)  # of the stages
    returned: dict[str, Any] = field(default_factory=dict)  # XCom
    errors: list[Exception] = field(default_factory=list)
    claims_only: bool = False  # whether the run is over once buffer has claimed

    def __post_init__(self) -> None:
        spec, actor = self.spec, self.actor
        client: Any = S3Door(self.outside.s3, actor)
        ledger: Any = LedgerDoor(self.outside.ledger, actor)
        services: Any = ClientDoor(self.outside.services, actor, "aws")
        prefix = source_prefix(spec.pipeline, spec.prefix)
        s3 = S3(None, client)  # type: ignore[arg-type]  # no session: nothing opens another client
        run: Run[Any] = Run(
            spec.pipeline, spec.run_id, spec.window, prefix, s3, ledger, redrive=spec.redrive, wave=spec.wave
        )
        self.run = keep_journal(run)
        kind = ImagingStages if isinstance(spec.pipeline, ImagingPipeline) else ClinicalStages
        if self.publishes:
            kind = PublishingStages
        self._stages = kind(self.run, services, self.returned, self.outside.clock.now)

    @property
    def publishes(self) -> bool:
        """Whether the run publishes its studies."""
        return isinstance(self.spec.pipeline, ImagingPipeline) and self.spec.pipeline.healthlake is not None

    @property
    def quiet(self) -> Run[Any]:
        """The run with an S3 whose calls are not points."""
        return replace(self.run, s3=S3(None, self.outside.s3))  # type: ignore[arg-type]  # no session is needed

    @property
    def starts_next(self) -> bool:
        """Whether the run's delivery has a further wave."""
        return find_next_wave(self.quiet) is not None

    @property
    def ended_well(self) -> bool:
        """Whether all stages have succeeded."""
        return not self.actor.alive and self.stopped_at is None

    @property
    def stopped_at(self) -> str | None:
        """The first stage that has not succeeded; None if all have."""
        return next((name for name in STAGES if self.states.get(name) != "success"), None)

    def begin(self, first: str) -> None:
        """Get ready to do the stages from this one on; `Actor.go` does them."""
        for name in STAGES[STAGES.index(first) :]:
            self.states.pop(name, None)
        self.actor.begin(lambda: self._do_from(first))

    def _do_from(self, first: str) -> None:
        for name in STAGES[STAGES.index(first) :]:
            before = STAGES[STAGES.index(name) - 1]
            if self.claims_only and self.states.get("buffer") == "success":
                self.states[name] = "success"
                continue
            always = {"receive", "audit", *(["fhir.audit"] if self.publishes else [])}
            due = name in always or self.states.get(before) == "success"
            self.states[name] = self._do(name) if due else "upstream_failed"

    def _do(self, name: str) -> str:
        if name in PUBLICATION and not self.publishes:
            return "success"  # the DAG of this pipeline does not have the task
        self.actor.stage = name
        try:
            self.returned[name] = getattr(self._stages, name.replace(".", "_") if name != "import" else "import_")()
        except Killed:
            self.states[name] = "killed"
            raise
        except Exception as error:  # noqa: BLE001  # as Airflow
            self.errors.append(error)
            return "failed"
        return "success"

    def give_up_task(self) -> bool:
        """Let a killed task count as failed and get ready for what follows; return whether there is any.

        Airflow does so when the retries of a task are used up.
        """
        killed = next((name for name in STAGES if self.states.get(name) == "killed"), None)
        if killed is None or killed == STAGES[-1]:
            return False
        self.states[killed] = "failed"
        following = STAGES[STAGES.index(killed) + 1]
        self.actor.begin(lambda: self._do_from(following))
        return True


class _Stages(ABC):
    """The stages that all kinds share."""

    rules: Any
    jobs: Callable[[Any], Any]
    audited_by = "audit"

    def __init__(self, run: Run[Any], services: Any, returned: dict[str, Any], now: Callable[[], datetime]) -> None:
        self.now = now
        self.run = run
        self.services = services
        self.returned = returned

    def receive(self) -> int:
        """Look at the delivery once."""
        if self.run.redrive is not None or self.run.wave is not None:
            return 0
        pipeline = self.run.pipeline
        return receive.look(self.run.s3, self.run.prefix, pipeline.source, pipeline.receive, self.now()).objects

    def buffer(self) -> list[str]:
        """Claim the delivery, or the arrivals of a redrive."""
        if self.run.redrive is not None:
            redrive(self.run, self.run.redrive, self.rules)
        return buffer.buffer(self.run, self.take_in).shards

    def take_in(self) -> buffer.TakenIn | None:
        """Return what the run takes besides its listing."""
        return None

    def normalize(self) -> list[str]:
        """Make the batches."""
        return [batch.batch_id for batch in self.make_batches() if batch.files]

    def stage(self) -> int:
        """Do nothing: normalize has written the batches' files."""
        return 0

    def import_(self) -> None:
        """Do the jobs of all batches."""
        for batch_id in self.returned["normalize"]:
            import_batch(self.run, batch_id, self.jobs(self.services))

    def audit(self) -> int:
        """Audit, and return the number of undecided arrivals."""
        audited = self.decide()
        if not audited.balanced:
            raise TaskFailedError(f"the books do not balance: {'; '.join(audited.report['problems'])}")
        return int(audited.open_arrivals)

    def route(self) -> dict[str, int]:
        """Send the released contracts to the folders on S3."""
        run = self.run
        folders = {
            item.name: S3Folder(run.s3, run.s3, S3Uri.parse(item.address(run.pipeline.datastore_id)))
            for item in run.pipeline.routes
        }
        sent = route.route(run, folders).sent
        if self.returned[self.audited_by]:
            raise TaskFailedError("arrivals are undecided")
        return sent

    @abstractmethod
    def make_batches(self) -> list[Any]:
        """Return the batches of the kind's normalize."""

    @abstractmethod
    def decide(self) -> Any:
        """Return the result of the kind's audit."""


class ImagingStages(_Stages):
    """The stages of a pipeline of images."""

    rules = imaging_redrive.RULES
    jobs = ImagingJobs

    def parse(self) -> None:
        """Read the headers of all shards."""
        for shard in self.returned["buffer"]:
            imaging_parse.parse_shard(self.run, shard)

    def validate(self) -> dict[str, int]:
        """Decide on the arrivals."""
        if self.run.redrive is not None:
            carry_arrivals(self.run, self.services)
        return imaging_validate.validate(self.run)

    def make_batches(self) -> list[Any]:
        """Plan batches of series."""
        return imaging_normalize.normalize(self.run)

    def stage(self) -> int:
        """Stage the first batch; the mapped tasks of each other one come after the import of the batch before."""
        return sum(imaging_stage.stage(self.run, batch_id).files for batch_id in self.returned["normalize"][:1])

    def import_(self) -> None:
        """Do the jobs of the batches, and stage each other one before its job."""
        for number, batch_id in enumerate(self.returned["normalize"]):
            if number:
                imaging_stage.stage(self.run, batch_id)
            import_batch(self.run, batch_id, self.jobs(self.services))

    def decide(self) -> Any:
        """Audit the run."""
        return imaging_audit.audit(self.run, ImageSetReader(self.services), publication.find_published(self.run))


class PublishingStages(ImagingStages):
    """The stages of a pipeline of images that are published as FHIR: the task group ``fhir`` comes before route."""

    audited_by = "fhir.audit"

    def fhir_normalize(self) -> list[str]:
        """Write the import files of the publication."""
        store = MemoryFhir(self.services)
        batches = publication.normalize(self.run, store, store)
        return [batch.batch_id for batch in batches if batch.files]

    def fhir_import(self) -> None:
        """Do the jobs of the publication."""
        for batch_id in self.returned["fhir.normalize"]:
            import_batch(self.run.within(publication.FOLDER), batch_id, HealthLakeJobs(self.services))

    def fhir_audit(self) -> int:
        """Audit the publication and then the run again, and return the number of what is undecided."""
        publication.audit(self.run, MemoryFhir(self.services))
        undecided = self.audit()
        publication.end_claims(self.run)
        return undecided + publication.count_undecided(self.run)


class ClinicalStages(_Stages):
    """The stages of a pipeline of FHIR resources."""

    rules = clinical_redrive.RULES
    jobs = HealthLakeJobs

    def take_in(self) -> buffer.TakenIn | None:
        """Return the objects of parked resources that are due."""
        return clinical_parked.take_in(self.run)

    def parse(self) -> None:
        """Split the files of all shards."""
        for shard in self.returned["buffer"]:
            clinical_parse.parse(self.run, shard)

    def validate(self) -> dict[str, int]:
        """Decide on the resources."""
        return clinical_validate.validate(self.run, MemoryFhir(self.services))

    def make_batches(self) -> list[Any]:
        """Write the import files."""
        return clinical_normalize.normalize(self.run, self.run.pipeline.healthlake)

    def decide(self) -> Any:
        """Audit the run."""
        return clinical_audit.audit(self.run, MemoryFhir(self.services))
