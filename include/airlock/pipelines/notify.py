"""Who is told, through Airflow's notifiers, when a run holds something, fails, or waits for a delivery too long."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from airlock.pipelines.settings import Settings

Event = Literal["hold", "failure", "late"]
CONNECTIONS = {"sns": "aws_default", "sqs": "aws_default", "email": "smtp_default", "slack": "slack_api_default"}


class Notify(Settings):
    """One place that is told, with counts and reason codes; exactly one of sns, sqs, email and slack."""

    events: tuple[Event, ...] = Field(
        ("hold", "failure", "late"),
        min_length=1,
        description="hold: the audit holds something; failure: the run failed; late: late_after_minutes is over",
    )
    sns: str | None = Field(None, pattern=r"^arn:aws(-[^:]+)?:sns:", description="ARN of an SNS topic")
    sqs: str | None = Field(None, pattern=r"^https?://", description="URL of an SQS queue")
    email: tuple[str, ...] | None = Field(None, min_length=1, description="addresses")
    slack: str | None = Field(None, min_length=2, description="a Slack channel, as #archive")
    conn_id: str | None = Field(
        None,
        description="Airflow connection; without it aws_default for sns and sqs, smtp_default, slack_api_default",
    )
    region_name: str | None = Field(None, description="of sns and sqs; without it that of the connection")

    @model_validator(mode="before")
    @classmethod
    def _take_the_old_name(cls, given: Any) -> Any:
        """Rename ``on``, as ``events`` was called; without quotes YAML 1.1 reads it as true."""
        if not isinstance(given, dict):
            return given
        old = [name for name in given if name == "on" or name is True]
        if len(old) + ("events" in given) > 1:
            raise ValueError("events is given twice, since on is its old name: remove on")
        return {"events" if name in old else name: value for name, value in given.items()}

    @field_validator("sns", "sqs")
    @classmethod
    def _not_fifo(cls, value: str | None) -> str | None:
        """Airflow's notifiers name no message group, without which a FIFO topic or queue takes nothing."""
        if value is not None and value.endswith(".fifo"):
            raise ValueError(f"{value} is FIFO, which Airflow's notifiers cannot send to: name a standard one")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Notify:
        given = [name for name in CONNECTIONS if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(CONNECTIONS)}, and a further entry for each other place")
        return self

    @property
    def kind(self) -> str:
        """Which of the four it is."""
        return next(name for name in CONNECTIONS if getattr(self, name))

    @property
    def connection(self) -> str:
        """The Airflow connection."""
        return self.conn_id or CONNECTIONS[self.kind]
