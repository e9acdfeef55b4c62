"""How much the whole chain is measured with, and the limits of AWS that it is held to."""

from __future__ import annotations

from dataclasses import dataclass

FACTOR = 5.0  # of AWS's limits, so that two cores have some CPU left
AWS_BATCH = 5_000  # files of a job, at most
EARLY_BATCHES = 24
WORKERS = 2
STAGING_SLOTS = 2  # of all workers, fewer than they have: import runs beside


@dataclass(frozen=True)
class Limits:
    """The limits and times that the servers keep to.

    Rates and the number of jobs at a time are AWS's, divided by one factor: this machine is then a share of a
    deployment that has all of AWS. Times are not divided, since a request does not become faster with fewer of them.
    """

    copies_per_second: float
    gets_per_second: float
    starts_per_second: float
    polls_per_second: float
    jobs: int
    copy_seconds: float
    get_seconds: float
    list_seconds: float
    other_seconds: float
    job_seconds: float
    job_files_per_second: float


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Parameters
    ----------
    objects, waves
        Of the delivery.
    batch
        Files of a job. The fixed time of a job and the time between two starts are shorter by as much as a job has
        fewer files than AWS allows: the limits in objects a second stay the same.
    early_batch
        Files in each of the batches of the first delivery, which shows how staging and import overlap; 0: none.
    slots
        Of each worker, while the delivery in waves is taken.
    active_runs
        Waves at the same time.
    minutes
        How long it takes on two cores, about.
    """

    objects: int
    waves: int
    batch: int
    early_batch: int
    slots: int = 4
    active_runs: int = 3
    factor: float = FACTOR
    minutes: float = 15

    @property
    def wave(self) -> int:
        """The objects of a wave."""
        return -(-self.objects // self.waves)

    @property
    def job_share(self) -> float:
        """How large a job is against AWS's largest."""
        return self.batch / AWS_BATCH

    def limits(self) -> Limits:
        """Return what this size is held to.

        S3's rates are documented for a prefix, the starts and the number of jobs for an account and a data store
        (HealthImaging endpoints and quotas). The times are assumed, as for a plan: AWS states none.
        """
        return Limits(
            copies_per_second=3_500 / self.factor,
            gets_per_second=5_500 / self.factor,
            starts_per_second=1 / self.factor / self.job_share,
            polls_per_second=25 / self.factor / self.job_share,
            jobs=round(100 / self.factor),
            copy_seconds=0.1,
            get_seconds=0.03,
            list_seconds=0.15,
            other_seconds=0.02,
            job_seconds=60 * self.job_share,
            job_files_per_second=50,
        )


FULL = Size(1_000_000, 10, AWS_BATCH, 1_000, minutes=45)
QUICK = Size(50_000, 10, 1_000, 400)
THIN = Size(4_000, 2, 500, 0)
SIZES = {"full": FULL, "quick": QUICK, "thin": THIN}
