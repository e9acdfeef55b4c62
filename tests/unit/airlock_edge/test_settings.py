"""A wrong settings file is refused with the name of each wrong field and what to write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from airlock_edge.settings import EdgeSettingsError, load_settings

if TYPE_CHECKING:
    from pathlib import Path

SMALLEST = {
    "schema": "airlock.edge/1",
    "site": "north",
    "state": "/var/lib/airlock-edge",
    "peers": [{"ae_title": "CT1", "addresses": ["10.0.0.1"]}],
    "destination": {"uri": "s3://archive/pacs/", "region_name": "eu-central-1"},
}


def load(folder: Path, **changes: Any) -> Any:
    path = folder / "edge.yaml"
    path.write_text(yaml.safe_dump(SMALLEST | changes))
    return load_settings(path)


def refusal(folder: Path, **changes: Any) -> str:
    with pytest.raises(EdgeSettingsError) as caught:
        load(folder, **changes)
    return str(caught.value)


def peer(**changes: Any) -> dict[str, Any]:
    return {"peers": [{"ae_title": "CT1", "addresses": ["10.0.0.1"]} | changes]}


def test_each_wrong_field_has_one_line(tmp_path):
    lines = refusal(tmp_path, **peer(addresses=["x"]), site="St.", timezone="Mars/Phobos").splitlines()
    assert [line.split("'")[1] for line in lines] == ["site", "timezone", "peers.0.addresses.0"]


def test_a_section_that_is_written_twice_is_refused(tmp_path):
    path = tmp_path / "edge.yaml"
    path.write_text(yaml.safe_dump(SMALLEST) + "listen: {port: 104}\nlisten: {address: '::'}\n")
    with pytest.raises(EdgeSettingsError, match="field 'listen' is written twice"):
        load_settings(path)


def test_the_smallest_file_waits_for_s3(tmp_path):
    assert load(tmp_path).store == "s3"


def test_a_spool_on_one_disk_is_refused(tmp_path):
    assert "store: spool needs spool.redundant: true" in refusal(tmp_path, store="spool")
    assert load(tmp_path, store="spool", spool={"redundant": True}).store == "spool"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"stor": "s3"}, "field 'stor' is unknown: remove it"),
        ({"site": "St. Elsewhere"}, "field 'site': 'St. Elsewhere' is not a site's name: write"),
        ({"timezone": "Mars/Phobos"}, "'Mars/Phobos' is not a time zone"),
        ({"state": "state"}, "'state' is not an absolute path"),
        ({"peers": []}, "field 'peers'"),
        ({"peers": SMALLEST["peers"] * 2}, "an AE title occurs twice"),
        ({"peers": [{"ae_title": "A TITLE THAT IS LONG", "addresses": ["10.0.0.1"]}]}, "is not an AE title"),
        ({"peers": [{"ae_title": "CT\\1", "addresses": ["10.0.0.1"]}]}, "is not an AE title"),
        (peer(addresses=["10.0.0.300"]), "field 'peers.0.addresses.0': '10.0.0.300' is not an address or network"),
        (peer(addresses=["10.0.0.1/8"]), "is an address within a network: write 10.0.0.0/8, or the address alone"),
        (peer(addresses=[10]), "10 is not an address or network"),
        (peer(addresses=[]), "field 'peers.0.addresses'"),
        (peer(reports_to="10.0.0.1"), "'10.0.0.1' is not an address: write host:port"),
        (peer(reports_to="10.0.0.1:99999"), "'10.0.0.1:99999' is not an address"),
        (peer(reports_to="10.0.0.1:104", reports_tls=True), "reports_tls needs the certificate of listen.tls"),
        (peer(reports_tls=True), "reports_tls needs reports_to"),
        ({"commitment": {"endpoint_url": "http://127.0.0.1:9"}}, "endpoint_url needs queue_url: set queue_url"),
        (peer(certificate_names=["ct1"]), "certificate_names needs listen.tls"),
        ({"listen": {"port": 99999}}, "(it is 99999)"),
        ({"destination": {"uri": "s3://archive", "region_name": "x"}}, "a bucket without a prefix"),
        ({"book": {"keep_days": 30}}, "field 'book.keep_days'"),
        ({"private_classes": ["1.2.x"]}, "'1.2.x' is not a UID"),
        ({"spool": {"alarm_percent": 95}}, "the alarm would come after the refusal"),
    ],
)
def test_a_wrong_field_is_named_with_its_fix(tmp_path, changes, text):
    assert text in refusal(tmp_path, **changes)


def test_a_file_that_is_not_yaml_is_named(tmp_path):
    path = tmp_path / "edge.yaml"
    path.write_text("a: [")
    with pytest.raises(EdgeSettingsError, match=r"edge\.yaml: the file cannot be read as YAML"):
        load_settings(path)
    with pytest.raises(EdgeSettingsError, match=r"none\.yaml"):
        load_settings(tmp_path / "none.yaml")
    path.write_text("[]")
    with pytest.raises(EdgeSettingsError, match="is not a mapping"):
        load_settings(path)
