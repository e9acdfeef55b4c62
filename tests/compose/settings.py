"""What the proof starts: its folder, images, ports, and the files that docker-compose reads."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from airlock.storage.s3uri import S3Uri
from airlock_local.env_file import write_env
from airlock_local.settings import ROOT
from tests.compose.certificates import write_certificates
from tests.servers.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

PIPELINE = "proof"
KMS_KEY = "arn:aws:kms:us-east-1:123456789012:key/3f6b7a52-8c0d-4e1f-9a2b-5c6d7e8f9a0b"
PULLED = {"BASE": "apache/airflow:3.3.2", "POSTGRES_IMAGE": "postgres:16", "BROKER_IMAGE": "valkey/valkey:8"}
# Not those of the sample: the emulator has a data store that no file of the image names.
DATA_STORES = {"healthimaging": "1d2c3b4a5f6e7d8c9b0a1f2e3d4c5b6a", "healthlake": "9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d"}


@dataclass(frozen=True)
class Settings:
    """The options of the proof, and the ports that it has found."""

    folder: Path
    images: dict[str, str]
    build_options: list[str]
    build: bool
    keep: bool
    api_port: int
    s3_port: int
    health_port: int

    @property
    def env_file(self) -> Path:
        """The file that make secrets would have written."""
        return self.folder / "env"

    @property
    def tls(self) -> Path:
        """The folder of the certificates."""
        return self.folder / "tls"

    @property
    def variables(self) -> dict[str, str]:
        """The variables of .env, as docker-compose reads them."""
        return dict(re.findall(r"^([A-Z_]+)=(.*)$", self.env_file.read_text(encoding="utf-8"), re.MULTILINE))

    @property
    def stand_ins(self) -> dict[str, str]:
        """The images in the place of those that docker-compose.yaml names."""
        return {name: image for name, image in self.images.items() if image != PULLED[name]}


def read_settings(arguments: Sequence[str]) -> Settings:
    """Read the options, and find free ports."""
    parser = argparse.ArgumentParser(prog="python -m tests.compose", description="Prove docker-compose.yaml.")
    parser.add_argument("--folder", type=Path, default=ROOT / "var/compose-proof", help="keeps the proof's files")
    for name, image in PULLED.items():
        option = f"--{name.lower().replace('_', '-')}"
        parser.add_argument(option, dest=name, default=image, help=f"instead of {image}")
    parser.add_argument("--build-option", action="append", default=[], help="of podman build, such as --network=host")
    parser.add_argument("--no-build", action="store_true", help="take the images that are there")
    parser.add_argument("--keep", action="store_true", help="leave the stack running")
    given = parser.parse_args(arguments)
    return Settings(
        folder=given.folder.resolve(),
        images={name: getattr(given, name) or image for name, image in PULLED.items()},
        build_options=given.build_option,
        build=not given.no_build,
        keep=given.keep,
        api_port=free_port(),
        s3_port=free_port(),
        health_port=free_port(),
    )


def prepare(settings: Settings) -> None:
    """Write what docker-compose reads: secrets as make secrets does, certificates, and a pipeline no image has."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    write_certificates(settings.tls, "s3")
    pipelines = settings.folder / "pipelines"
    pipelines.mkdir(exist_ok=True)
    content = _write_pipeline(pipelines / f"{PIPELINE}.yaml")
    settings.env_file.unlink(missing_ok=True)
    write_env(ROOT / ".env.example", settings.env_file)
    strict = ",".join(sorted(_list_strict(content)))
    changed = {
        **settings.images,
        "PIPELINES": str(pipelines),
        "API_PORT": str(settings.api_port),
        "S3_PORT": str(settings.s3_port),
        "HEALTH_PORT": str(settings.health_port),
        "AIRFLOW_CONN_AWS_DEFAULT": settings.variables["AIRFLOW_CONN_AWS_DEFAULT"].replace("http://s3", "https://s3"),
    }
    added = {"PROOF_TLS": settings.tls, "PROOF_KMS_KEY": KMS_KEY, "PROOF_STRICT_BUCKETS": strict}
    text = settings.env_file.read_text(encoding="utf-8")
    for name, value in changed.items():
        text = "\n".join(f"{name}={value}" if line.startswith(f"{name}=") else line for line in text.split("\n"))
    text += "".join(f"{name}={value}\n" for name, value in added.items())
    settings.env_file.write_text(text, encoding="utf-8")


def _list_strict(content: dict[str, Any]) -> set[str]:
    """Return the buckets to which only Airlock writes; jobs and senders write to the others."""
    addresses = [content["staging"]["uri"], content["workspace"], *(route["uri"] for route in content["routes"])]
    return {S3Uri.parse(uri).bucket for uri in addresses}


def _write_pipeline(path: Path) -> dict[str, Any]:
    """Write the sample's pipeline under another name, with data stores of its own and a KMS key for its buckets."""
    content = yaml.safe_load((ROOT / "include/pipelines/sample.yaml").read_text(encoding="utf-8"))
    content["name"] = PIPELINE
    content["buckets"] = {"others": {"kms_key_id": KMS_KEY}}
    del content["healthlake"]["kms_key_id"]
    content["schedule"]["cron"] = None  # the proof starts the only run
    for section, datastore in DATA_STORES.items():
        content[section]["datastore_id"] = datastore
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return dict(content)
