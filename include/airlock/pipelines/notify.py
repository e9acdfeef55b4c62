"""The receivers of notifications, sent by Airflow's notifiers, about holds, failures and late deliveries."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from airlock.pipelines.settings import Settings

Event = Literal["hold", "failure", "late", "brake", "sweep", "patient", "review", "done"]
CONNECTIONS = {"sns": "aws_default", "sqs": "aws_default", "email": "smtp_default", "slack": "slack_api_default"}


class Notify(Settings):
    """One receiver of notifications with counts and reason codes: exactly one of sns, sqs, email and slack."""

    events: tuple[Event, ...] = Field(
        ("hold", "failure", "late", "brake", "sweep", "patient", "review"),
        min_length=1,
        description="hold: the audit holds a subject, or an object is overdue; failure: the run failed; late: the "
        "delivery is not complete after late_after_minutes; brake: the run has stopped and asks whether to go on; "
        "sweep: a sweep found overdue objects; patient: the order of a released study is another patient's; "
        "review: reviews have waited for longer than review.remind_hours or escalate_hours; done: the run is audited "
        "and its books balance, with its numbers (not by default)",
    )
    sns: str | None = Field(None, pattern=r"^arn:aws(-[^:]+)?:sns:", description="ARN of an SNS topic")
    sqs: str | None = Field(None, pattern=r"^https?://", description="URL of an SQS queue")
    email: tuple[str, ...] | None = Field(None, min_length=1, description="e-mail addresses")
    slack: str | None = Field(None, min_length=2, description="a Slack channel, for example #archive")
    conn_id: str | None = Field(
        None,
        description="Airflow connection; by default aws_default (sns, sqs), smtp_default (email) or "
        "slack_api_default (slack)",
    )
    region_name: str | None = Field(None, description="AWS region of sns and sqs; by default the connection's")

    @model_validator(mode="before")
    @classmethod
    def _rename_on(cls, given: Any) -> Any:
        """Rename ``on``, the old name of ``events``; YAML 1.1 reads it as true if it is not in quotes."""
        if not isinstance(given, dict):
            return given
        old = [name for name in given if name == "on" or name is True]
        if len(old) + ("events" in given) > 1:
            raise ValueError("events is given twice, because on is its old name: remove on")
        return {"events" if name in old else name: value for name, value in given.items()}

    @field_validator("sns", "sqs")
    @classmethod
    def _refuse_fifo(cls, value: str | None) -> str | None:
        """Refuse FIFO topics and queues: they need a message group, which Airflow's notifiers do not send."""
        if value is not None and value.endswith(".fifo"):
            raise ValueError(
                f"{value} is FIFO, but Airflow's notifiers cannot send to FIFO: name a standard topic or queue"
            )
        return value

    @model_validator(mode="after")
    def _require_one_receiver(self) -> Notify:
        given = [name for name in CONNECTIONS if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(CONNECTIONS)}; add an entry for each further receiver")
        return self

    @property
    def kind(self) -> str:
        """The name of the receiver's field: sns, sqs, email or slack."""
        return next(name for name in CONNECTIONS if getattr(self, name))

    @property
    def connection(self) -> str:
        """The id of the Airflow connection."""
        return self.conn_id or CONNECTIONS[self.kind]
