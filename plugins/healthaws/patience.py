"""Wait out the refusals of a service without using up the task's retries."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk import BaseOperator
from botocore.exceptions import ClientError, ParamValidationError

from healthaws.exceptions import RequestRejectedError, ServiceBusyError, fail_without_retry, without_keys
from healthaws.refusals import Backoff, Refusals, is_busy, is_role_pending, rejection
from healthaws.triggers.pause import PauseTrigger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")


class PatientOperator(BaseOperator):
    """
    Base of operators that ask a service again when it throttles or refuses for a quota.

    Not to be used in DAGs directly.

    Parameters
    ----------
    deferrable : bool
        Whether to wait in the triggerer instead of in the worker. (default: False)
    backoff_initial_delay : float
        Longest first pause after a refusal, in seconds; each further refusal in a row doubles it. (default: 30)
    backoff_max_delay : float
        Longest pause, in seconds. (default: 600)
    backoff_timeout : float
        How long refusals in a row may last before the try fails, in seconds. (default: 21600)
    role_timeout : float
        How long a start is repeated while the service cannot assume the role, in seconds. (default: 300)
    **kwargs
        Of :class:`airflow.sdk.BaseOperator`.
    """

    def __init__(
        self,
        *,
        deferrable: bool = False,
        backoff_initial_delay: float = 30,
        backoff_max_delay: float = 600,
        backoff_timeout: float = 6 * 60 * 60,
        role_timeout: float = 300,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.deferrable = deferrable
        self.backoff = Backoff(backoff_initial_delay, backoff_max_delay, backoff_timeout)
        self.role_timeout = role_timeout

    def ask_patiently(self, ask: Callable[[], T], resume: str, event: Mapping[str, Any]) -> T:
        """
        Send a request, and wait out refusals in the worker or by a deferral.

        Parameters
        ----------
        ask : Callable
            The request.
        resume : str
            The method in which Airflow resumes after a deferral.
        event : Mapping
            The event that the calling method got; ``resume`` gets it with the count of refusals, under ``refused``.

        Returns
        -------
        T
            The result of ``ask``.

        Raises
        ------
        AirflowFailException
            If the request is rejected for its content or missing access, or for another reason that no retry can help.
        ServiceBusyError
            If the refusals outlast ``backoff_timeout``.
        """
        refusals = Refusals(**event.get("refused", {}))
        while True:
            with fail_without_retry():
                try:
                    return ask()
                except ParamValidationError as error:
                    raise RequestRejectedError(without_keys(str(error))) from None
                except ClientError as error:
                    refusals = self._count_refusal(error, refusals)
            delay = self.backoff.delay(refusals.count)
            self.log.info("Asking again in %.0f s.", delay)
            if self.deferrable:
                self.defer(
                    trigger=PauseTrigger(time.time() + delay, {**event, "refused": asdict(refusals)}),
                    method_name=resume,
                    timeout=timedelta(seconds=delay + self.backoff.timeout),
                )
            time.sleep(delay)

    def _count_refusal(self, error: ClientError, refusals: Refusals) -> Refusals:
        """Count a refusal that may pass; raise for any other error, and if the refusals last too long."""
        busy = is_busy(error.response)
        refusals = refusals.one_more()
        if not busy and not self._may_pass(error, refusals):
            raise rejection(error) or error from None
        reason = without_keys(str(error))
        self.log.warning("Refused %s times in a row, for %.0f s: %s", refusals.count, refusals.seconds, reason)
        if busy and refusals.seconds >= self.backoff.timeout:
            raise ServiceBusyError(
                f"{reason}: the service has refused {refusals.count} times in a row, for {refusals.seconds:.0f} s. Run "
                "fewer jobs at once (an Airflow pool), ask AWS for a higher quota, or raise backoff_timeout."
            ) from None
        return refusals

    def _may_pass(self, error: ClientError, refusals: Refusals) -> bool:
        """Return whether a refusal that is not a throttle may pass: of a new role or of a data store in change."""
        if is_role_pending(error):
            return refusals.seconds < self.role_timeout
        return refusals.seconds < self.backoff.timeout and self.is_passing(error)

    def is_passing(self, error: ClientError) -> bool:  # noqa: ARG002 - for subclasses
        """
        Return whether a refusal that is neither a throttle nor a quota may pass; a subclass may know one.

        Parameters
        ----------
        error : ClientError
            The service's answer.
        """
        return False
