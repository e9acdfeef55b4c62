"""Brake: a stage whose numbers are absurd asks a person, in Airflow's own form, whether its run goes on.

The stage's task waits without a worker slot. Its run has then imported, or settled and released, nothing that the
question is about.
"""

from __future__ import annotations

from abc import abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException

from airlock.pipelines import Brake, ClinicalPipeline, ImagingPipeline
from airlock_tasks.notify import notify_once
from airlock_tasks.questions import Question
from airlock_tasks.run import RunOperator, open_run

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airlock.run import Run
    from airlock.stages.brake import Finding

GO_ON, STOP = "Go on", "Stop the run"
_NUMBER = Param(
    None,
    type=["null", "integer"],
    title="Number of the question",
    description="Leave it empty for question 1. If the task was cleared and asks another one, its log names the number "
    "and the counts: Airflow shows the first text again.",
)
QUESTION = Question(
    GO_ON,
    STOP,
    "let the run go on?",
    "Why the run goes on or stops, and what you checked.",
    answered_by="answer_brake",
    fields={"question": _NUMBER},
)
_TASKS = {"import": "Nothing of this run has been imported.", "route": "Nothing of this run is settled or sent."}
_ADVICE = (
    "**Stop the run** if the cause can be cured, for example a key, a role or a broken export: cure it, then clear "
    "the task parse with its downstream, or give the files back with `airlock ledger release`.\n\n"
    "**Go on** if the numbers are right. It needs a reason; an answer without one is rejected, and this question is "
    "then open again. docs/operations.md says more. If the task is cleared and asks another question, this text stays: "
    "read that question in the task's log, and write its number into the form."
)

BrakedT = TypeVar("BrakedT", bound=ImagingPipeline | ClinicalPipeline)


class BrakedOperator(RunOperator[BrakedT]):
    """Base of operators that may stop their run and ask a person whether it goes on."""

    @abstractmethod
    def go_on(self, run: Run[BrakedT], context: Context, result: Any) -> Any:
        """Return the task's result after a person has let the run go on.

        Parameters
        ----------
        run
            The run.
        context
            The task's context.
        result
            What the task had computed when it asked.
        """

    def ask(
        self, run: Run[BrakedT], context: Context, finding: Finding, result: Any = None, more: str = ""
    ) -> NoReturn:
        """Ask whether the run goes on, and wait for the answer.

        Parameters
        ----------
        run, context
            The run and the task's context.
        finding
            Why the run has stopped.
        result
            What the task has computed, for `go_on`.
        more
            What else the person should read, such as the address of a list.
        """
        from airlock.stages.brake import describe

        told = f"Question {finding.number}: {describe(run, finding)}"
        self.log.warning("The run has stopped and asks a person: %s", told)
        about = "" if finding.number == 1 else str(finding.number)
        notify_once(self.pipeline, "brake", context, f"{told} The run asks whether to go on: Required Actions.", about)
        lines = (told, _TASKS[finding.gate], more, _ADVICE)
        # Airflow keeps gate and result in its database. The finding, which may name a site, stays in the workspace.
        kept = {"gate": finding.gate, "result": result}
        QUESTION.ask(context, self.pipeline, *lines, within=self._answer_within, **kept)

    def answer_brake(self, context: Context, event: dict[str, Any], gate: str, result: Any) -> Any:
        """Record the answer; let the task go on, or fail it.

        Raises
        ------
        AirflowFailException
            If a person has stopped the run, or nobody has answered in time.
        """
        from airlock.stages.brake import describe, read_question, record_answer

        again: dict[str, Any] = {"within": self._answer_within, "gate": gate, "result": result}
        review = QUESTION.read(context, self.pipeline, event, **again)
        timed_out = not event.get("responded_by_user")
        run = open_run(self.pipeline, context, self.folder)
        with run.ledger:
            asked = read_question(run, gate)
            if asked is None:  # its workspace was deleted
                return self.run_stage(run, context)
            number = (event.get("params_input") or {}).get("question") or 1
            if review.approved and number != asked.number:
                why = f"It is about question {number}. Question {asked.number} is: {describe(run, asked)}"
                QUESTION.reject(context, self.pipeline, why, **again)
            record_answer(run, asked, review, timed_out=timed_out)
            if not review.approved:
                who = "Nobody answered in time, so the run is stopped" if timed_out else "A person has stopped the run"
                raise AirflowFailException(f"{who}: {describe(run, asked)} Cure the cause, then clear parse.")
            self.log.info("A person lets the run go on.")
            return self.go_on(run, context, result)

    @property
    def _answer_within(self) -> timedelta:
        brake = self.pipeline.audit.brake
        return timedelta(hours=(brake if isinstance(brake, Brake) else Brake()).answer_hours)
