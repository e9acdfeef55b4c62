"""What the tests that cut servers off have in common: what stages ask, and Airflow's connections through proxies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from email.message import EmailMessage

    from tests.servers.proxy import Proxy

CUTS = ("S3", "SQS", "HealthImaging", "HealthLake", "FHIR REST", "webhook", "ledger")
NOTHING = "nothing"
STORED = "S3", "ledger"
LAKE = "HealthLake", "FHIR REST"
# What each stage asks; receive and normalize search a data store that the ledger does not know.
ASKS: dict[str, dict[str, tuple[str, ...]]] = {
    "imaging": {
        "receive": (*STORED, "HealthImaging", *LAKE),
        "buffer": STORED,
        "parse": STORED,
        "validate": STORED,
        "normalize": (*STORED, "HealthImaging", *LAKE),
        "stage": STORED,
        "import": (*STORED, "HealthImaging"),
        "audit": (*STORED, "HealthImaging", "SQS"),
        "fhir.normalize": (*STORED, *LAKE),
        "fhir.import": (*STORED, "HealthLake"),
        "fhir.audit": (*STORED, "HealthImaging", "SQS"),
        "route": (*STORED, "SQS", "webhook"),
    },
    "in-place": {  # a batch's prefix is the archive's own
        "receive": (*STORED, "HealthImaging"),
        "buffer": STORED,
        "parse": STORED,
        "validate": STORED,
        "normalize": (*STORED, "HealthImaging"),
        "stage": STORED,
        "import": (*STORED, "HealthImaging"),
        "audit": (*STORED, "HealthImaging", "SQS"),
        "route": (*STORED, "SQS", "webhook"),
    },
    "clinical": {
        "receive": (*STORED, *LAKE),
        "buffer": STORED,
        "parse": STORED,
        "validate": (*STORED, *LAKE),
        "normalize": (*STORED, *LAKE),
        "import": (*STORED, "HealthLake"),
        "audit": (*STORED, *LAKE, "SQS"),
        "route": (*STORED, "SQS", "webhook"),
    },
    "ccda": {
        "receive": (*STORED, *LAKE),
        "buffer": STORED,
        "parse": STORED,
        "validate": STORED,
        "normalize": (*STORED, *LAKE),
        "import": (*STORED, "HealthLake"),
        "audit": STORED,
        "fhir.parse": STORED,
        "fhir.validate": (*STORED, *LAKE),
        "fhir.normalize": (*STORED, *LAKE),
        "fhir.import": (*STORED, "HealthLake"),
        "fhir.audit": (*STORED, *LAKE, "SQS"),
        "route": (*STORED, "SQS", "webhook"),
    },
}
_ONCE = {"inject_host_prefix": False, "connect_timeout": 2, "read_timeout": 10, "retries": {"total_max_attempts": 1}}


def connections(cuts: dict[str, Proxy], mail_port: int) -> dict[str, dict[str, Any]]:
    """Return the connections to AWS, a webhook and a mail server by the names that Airflow's variables have."""
    services = {"sqs": "SQS", "medical-imaging": "HealthImaging", "healthlake": "HealthLake"}
    aws = {
        "region_name": "us-east-1",
        "endpoint_url": cuts["S3"].url,
        "config_kwargs": _ONCE,
        "service_config": {service: {"endpoint_url": cuts[cut].url} for service, cut in services.items()},
    }
    mail = {"disable_ssl": True, "disable_tls": True, "from_email": "airlock@example.org"}
    return {
        "CUT": {"conn_type": "aws", "login": "testing", "password": "testing", "extra": aws},
        "HOSPITAL": {"conn_type": "http", "host": f"{cuts['webhook'].url}/hook", "password": "known to two"},
        "SMTP_DEFAULT": {"conn_type": "smtp", "host": "127.0.0.1", "port": mail_port, "extra": mail},
    }


def routes(queue_url: str, **contracts: Any) -> list[dict[str, Any]]:
    """Return a route to a folder on S3, one to a queue and one to a webhook."""
    at_once = {"delivery": {"backoff_seconds": 0, "max_backoff_seconds": 0}}
    return [
        {"name": "contracts"} | contracts | at_once,
        {"name": "queue", "sqs": {"queue_url": queue_url, "region_name": "us-east-1", "aws_conn_id": "cut"}} | at_once,
        {"name": "hook", "webhook": {"conn_id": "hospital"}} | at_once,
    ]


def mail_text(mail: EmailMessage) -> str:
    """Return a mail's subject and its text, decoded."""
    parts = [part.get_content() for part in mail.walk() if part.get_content_maintype() == "text"]
    return "\n".join([str(mail["Subject"]), *parts])


def address(endpoint: str) -> tuple[str, int]:
    """Return the host and the port of http://host:port."""
    host, _, port = endpoint.removeprefix("http://").partition(":")
    return host, int(port)
