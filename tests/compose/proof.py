"""The proof of docker-compose.yaml: the sample over two workers, with kills before and after the import job starts."""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from airlock.run import run_key
from airlock.storage.s3uri import S3Uri
from airlock_cli.airflow_api import AirflowApi
from airlock_local.deliver import sample_files, upload
from airlock_local.progress import say
from airlock_local.settings import ROOT
from tests.compose import checks
from tests.compose.engine import list_statuses
from tests.compose.settings import DATA_STORES, KMS_KEY, PIPELINE
from tests.waiting import until

if TYPE_CHECKING:
    from tests.compose.engine import Stack
    from tests.compose.settings import Settings

DELIVERY = S3Uri.parse("s3://airlock-archive/deliveries/sample/")
START = "StartDICOMImportJob"
_PATIENCE = 900.0  # seconds for a step of the run, with two tries lost to kills
_TUNED = 37  # slots that no file names
_HELD_UP = 900  # seconds for which the emulator carries out no call: longer than the proof


class ProofError(AssertionError):
    """Something is not as it must be; the message names it."""


def require(holds: object, what: str) -> None:
    """Print what holds, or end the proof with it."""
    if not holds:
        raise ProofError(f"not so: {what}")
    say(f"  ok  {what}")


def read_expected() -> dict[str, int]:
    """Return the dispositions of the sample that the README shows."""
    shown = re.search(
        r"^ +dispositions +(\d+ released, .+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert shown, "the README shows no dispositions of the sample"
    return {name: int(number) for number, name in re.findall(r"(\d+) (\w+)", shown[1])}


@dataclass
class Proof:
    """One proof on a stack that is up.

    Parameters
    ----------
    settings, stack
        The stack.
    passwords
        Of the users that the proof makes, by their names.
    buckets
        Those that Airlock writes, once they are encrypted.
    """

    settings: Settings
    stack: Stack
    passwords: dict[str, str] = field(default_factory=dict)
    buckets: list[str] = field(default_factory=list)
    _apis: dict[str, AirflowApi] = field(default_factory=dict)

    def run(self) -> None:
        """Prove everything, in the order in which the stack allows it.

        Raises
        ------
        ProofError
            At the first thing that is not so.
        """
        self.check_containers()
        self.check_roles_of_people()
        self.deliver()
        run, killed = self.run_with_kills()
        self.check_books(run, killed)
        self.check_encryption()
        self.check_ledger()
        self.check_pools()
        self.check_profiles()
        self.check_health()

    def check_containers(self) -> None:
        """Look at what each container may do."""
        services = self.stack.services()
        wrong = [words for name in services for words in checks.describe_hardening(self.stack, name)]
        require(not wrong, f"{len(services)} containers: read-only root, no capability, no root, limits. {wrong or ''}")

    def check_roles_of_people(self) -> None:
        """Make a viewer and an operator, and ask as nobody, as one and as the other."""
        for role in ("viewer", "operator"):
            self.passwords[role] = secrets.token_urlsafe(24)
            told = f"{self.passwords[role]}\n{self.passwords[role]}\n"
            command = ["airflow", "users", "create", "--username", role, "--role", f"Airlock {role}"]
            command += ["--firstname", "A", "--lastname", "B", "--email", f"{role}@localhost"]
            self.stack.execute("api-server", *command, told=told)
        until("the DAG is there", lambda: self.api("viewer").dag(PIPELINE), _PATIENCE)
        runs = f"/api/v2/dags/{PIPELINE}/dagRuns"
        body: dict[str, Any] = {"logical_date": None, "conf": {}}
        require(checks.status_of(self.settings, runs) == 401, "identity: nobody reads without a login (401)")
        viewer = checks.token_of(self.settings, "viewer", self.passwords["viewer"])
        require(checks.status_of(self.settings, runs, viewer) == 200, "identity: a viewer reads runs (200)")
        require(checks.status_of(self.settings, runs, viewer, body) == 403, "identity: a viewer starts none (403)")

    def api(self, user: str) -> AirflowApi:
        """Return Airflow's API as one of the users; each logs in once, since FAB limits the rate."""
        if user not in self._apis:
            self._apis[user] = AirflowApi(f"http://127.0.0.1:{self.settings.api_port}", user, self.passwords[user])
            self._apis[user].log_in()
        return self._apis[user]

    def deliver(self) -> None:
        """Set the default key of the buckets that Airlock writes, try their policies, and upload the sample."""
        client = checks.s3_client(self.settings)
        self.buckets = checks.encrypt_buckets(client, DELIVERY.bucket)
        named = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": KMS_KEY}
        for strict in self.settings.variables["PROOF_STRICT_BUCKETS"].split(","):
            require(checks.refuses(client, strict), f"S3: {strict} refuses a write that names no key")
            require(not checks.refuses(client, strict, **named), f"S3: {strict} takes a write that names the key")
        other = {"ServerSideEncryption": "AES256"}
        require(all(checks.refuses(client, bucket, **other) for bucket in self.buckets), "S3: no bucket takes AES256")
        files = sample_files(self.settings.folder / "sample", "imaging")
        written, _ = upload(client, files, DELIVERY)
        require(written == len(files), f"S3 over TLS: {written} files of the sample delivered")

    def run_with_kills(self) -> tuple[str, list[str]]:
        """Start the run as the operator, kill the importing worker before and after the job starts, await the end.

        Returns
        -------
        tuple
            The DAG run's id, and the services that were killed.
        """
        before = self.jobs()
        self.set_faults({"kind": "slow_responses", "operation": START, "seconds": _HELD_UP, "times": 1})
        self.api("operator").unpause(PIPELINE)
        run = self.api("operator").trigger(PIPELINE, {"prefix": DELIVERY.key})
        say(f"      run {run}, started by the operator")
        first = self.kill_importer(run)
        require(self.jobs() == before, f"{first} was killed before the job was started: the service has no job")
        self.set_faults({"kind": "slow_responses", "operation": START, "seconds": 15, "times": 1})
        self.stack.start(first)
        second = self.kill_importer(run)
        until("the service starts the job", lambda: len(self.jobs()) > len(before), 60)
        require(True, f"{second} was killed in the call that started the job, before the answer")
        self.stack.start(second)
        self.set_faults()
        state = until("the run ends", lambda: self.find_end(run), _PATIENCE)
        require(state == "success", f"the run ended: {state}")
        return run, [first, second]

    def find_end(self, run: str) -> str:
        """Return the state in which the run has ended; an empty text before."""
        state = self.api("operator").run_state(PIPELINE, run)
        return state if state in {"success", "failed"} else ""

    def kill_importer(self, run: str) -> str:
        """Wait until a start of the job is on its way, kill the worker that sent it, and return the worker."""
        until("a start is on its way", lambda: [fault["remaining"] for fault in self.faults()] == [0], _PATIENCE)
        tasks = [task for task in self.api("operator").task_instances(PIPELINE, run) if task["task_id"] == "import"]
        hosts = {task["hostname"] for task in tasks if task["state"] == "running"}
        require(len(hosts) == 1, f"one worker imports: {', '.join(sorted(hosts)) or 'none'}")
        worker = self.stack.service_of(hosts.pop())
        self.stack.kill(worker)
        return worker

    def check_books(self, run: str, killed: list[str]) -> None:
        """Compare the report with the README, and the jobs with the batches."""
        key = run_key(PIPELINE, run)
        client = checks.s3_client(self.settings)
        address = {"Bucket": "airlock-workspace", "Key": f"runs/{PIPELINE}/{key}/audit/report.json"}
        report = json.loads(client.get_object(**address)["Body"].read())
        counts = {name: number for name, number in report["dispositions"].items() if number}
        require(report["balanced"], "the books balance")
        require(counts == read_expected(), f"dispositions as in the README: {counts}")
        jobs = [job for job in self.jobs() if f"/{key}/" in job["inputS3Uri"]]
        require(len(jobs) == len(report["jobs"]), f"{len(jobs)} import jobs for {len(report['jobs'])} batches")
        tasks = self.api("operator").task_instances(PIPELINE, run)
        tries = {task["try_number"] for task in tasks if task["task_id"] == "import"}
        require(max(tries) == len(killed) + 1, f"import took {max(tries)} tries, after {len(killed)} kills")
        hosts = {task["hostname"] for task in tasks if task["hostname"]}
        workers = {self.stack.service_of(host) for host in hosts if host}
        require(len(workers) == 2, f"{len(tasks)} tasks ran on {', '.join(sorted(workers))}")

    def check_encryption(self) -> None:
        """Look at every object that Airlock and the services have written."""
        found = checks.count_by_encryption(checks.s3_client(self.settings), self.buckets)
        counts = ", ".join(f"{bucket} {sum(keys.values())}" for bucket, keys in found.items())
        require(
            all(keys.keys() <= {KMS_KEY} for keys in found.values()),
            f"all objects written are under the KMS key: {counts}",
        )

    def check_ledger(self) -> None:
        """Ask the ledger as the tasks' role."""
        said = checks.ask_ledger(self.stack)
        require(said["session"][:2] == ["airlock_writer", "True"], f"ledger: {' '.join(said['session'])} (user, TLS)")
        require(said["superuser"] == ["False"], "ledger: the tasks' role is no superuser")
        require("permission denied" in said["change"], f"ledger: decisions stay as they are ({said['change']})")
        require("permission denied" in said["truncate"], f"ledger: no table is emptied ({said['truncate']})")
        require("no encryption" in said["plain"], f"ledger: {said['plain']}")

    def check_pools(self) -> None:
        """Tune a pool, and start Compose again."""
        self.passwords["admin"] = self.settings.variables["ADMIN_PASSWORD"]
        api, path = self.api("admin"), "/api/v2/pools/airlock_staging"
        api._call("PATCH", path, json={"pool": "airlock_staging", "slots": _TUNED, "include_deferred": True})
        self.stack.up("airflow-init")
        until("airflow-init has ended", lambda: not self.stack.inspect("airflow-init")["State"]["Running"], _PATIENCE)
        slots = api._call("GET", path)["slots"]
        require(slots == _TUNED, f"a pool of {slots} slots is left alone by another start")

    def check_profiles(self) -> None:
        """Ask for the account's profile with the connection of the local one."""
        account = {"COMPOSE_PROFILES": "account"}
        there = set(self.stack.compose("config", "--services", variables=account).split())
        require(not there & {"s3", "buckets", "health"}, f"profile account: {len(there)} services, no emulator")
        said = self.refused_init(account)
        require("leads to the local S3" in said, f"profile account refuses the local connection: {said}")

    def refused_init(self, variables: dict[str, str]) -> str:
        """Return the sentence with which airflow-init ends at once."""
        try:
            self.stack.compose("run", "--rm", "--no-deps", "-T", "airflow-init", variables=variables)
        except RuntimeError as error:
            return str(error).strip().splitlines()[-1]
        return "it was not refused"

    def check_health(self) -> None:
        """Wait until every part that stays is healthy, the killed workers too."""
        until("all are healthy", lambda: all("(healthy)" in status for status in list_statuses().values()), _PATIENCE)
        found = list_statuses()
        require(len(found) >= 9, f"healthy: {', '.join(sorted(name.rpartition('-')[0] for name in found))}")

    def jobs(self) -> list[dict[str, Any]]:
        """Return HealthImaging's import jobs of the proof's data store."""
        found = self._ask_emulator("calls")["jobs"]
        return [job for job in found if job.get("datastoreId") == DATA_STORES["healthimaging"]]

    def faults(self) -> list[dict[str, Any]]:
        """Return the emulator's faults."""
        return list(self._ask_emulator("faults"))

    def set_faults(self, *faults: dict[str, Any]) -> None:
        """Switch on exactly these faults of the emulator."""
        url = f"http://127.0.0.1:{self.settings.health_port}/_localaws/faults"
        httpx.put(url, json=list(faults), timeout=30, trust_env=False).raise_for_status()

    def _ask_emulator(self, what: str) -> Any:
        url = f"http://127.0.0.1:{self.settings.health_port}/_localaws/{what}"
        return httpx.get(url, timeout=30, trust_env=False).raise_for_status().json()
