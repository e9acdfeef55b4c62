"""``airlock-edge check``: faults and notes before an edge is started."""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from airlock_edge.__main__ import app
from airlock_edge.checks import find_warnings
from airlock_edge.disk import Disk, find_disk
from airlock_edge.revocations import find_first_end
from airlock_edge.settings import load_settings
from airlock_edge.start_error import EdgeStartError
from tests.servers.certificates import Authority
from tests.servers.edge import write_settings

if TYPE_CHECKING:
    from pathlib import Path

ENDPOINT = "http://127.0.0.1:9"


def check(folder: Path, **changes: Any) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["check", str(write_settings(folder, ENDPOINT, **changes))])
    return result.exit_code, result.output


def test_a_state_folder_that_is_not_there_is_named(tmp_path) -> None:
    code, output = check(tmp_path)
    assert code == 1
    assert "is not a folder: make it" in output
    (tmp_path / "state").mkdir()
    code, output = check(tmp_path)
    assert code == 0
    assert "note: listen.tls: associations are not encrypted" in output
    assert "edge.yaml: site north, 1 peer, store s3" in output


def test_a_wrong_field_ends_with_2(tmp_path) -> None:
    code, output = check(tmp_path, site="St. Elsewhere")
    assert code == 2
    assert "field 'site'" in output


def listen(tls: dict[str, Path]) -> dict[str, Any]:
    return {"address": "127.0.0.1", "port": 0, "tls": {name: str(path) for name, path in tls.items()}}


def test_certificates_that_do_not_fit_are_named(tmp_path) -> None:
    (tmp_path / "state").mkdir()
    authority = Authority(tmp_path, "hospital")
    own, other = authority.issue("edge"), authority.issue("other")
    own.key.chmod(0o600)
    tls = {"certificate": own.certificate, "key": own.key, "client_authorities": authority.certificate}
    assert check(tmp_path, listen=listen(tls))[0] == 0
    code, output = check(tmp_path, listen=listen(tls | {"key": other.key}))
    assert code == 1
    assert "key values mismatch" in output
    assert "the key that of the certificate" in output
    own.key.chmod(0o644)
    assert "chmod 0600" in check(tmp_path, listen=listen(tls))[1]
    own.key.unlink()
    assert "listen.tls.key: this user cannot read" in check(tmp_path, listen=listen(tls))[1]


def test_a_revocation_list_that_expires_is_named(tmp_path) -> None:
    (tmp_path / "state").mkdir()
    authority = Authority(tmp_path, "hospital")
    own = authority.issue("edge")
    own.key.chmod(0o600)
    tls = {"certificate": own.certificate, "key": own.key, "client_authorities": authority.certificate}

    def check_list(path: Path) -> tuple[int, str]:
        return check(tmp_path, listen=listen(tls | {"revocation_list": path}))

    assert "revocation_list" not in check_list(authority.revoke(own, days=8))[1]
    code, output = check_list(authority.revoke(own, days=6))
    assert code == 0
    assert "note: listen.tls.revocation_list: the list expires on" in output
    code, output = check_list(authority.revoke(days=-1))
    assert code == 0, "it starts, and uploads its spool"
    assert "note: listen.tls.revocation_list: the list has expired on" in output
    code, output = check_list(authority.certificate)
    assert code == 1
    assert f"{authority.certificate} has a certificate, which would count as an authority" in output
    (tmp_path / "empty.pem").write_text("")
    assert "empty.pem has no list, so that every peer is refused" in check_list(tmp_path / "empty.pem")[1]
    assert "this user cannot read" in check_list(tmp_path / "nothing")[1]


def test_the_first_list_of_a_file_that_expires_counts(tmp_path) -> None:
    later, first = Authority(tmp_path, "later").revoke(days=9).read_bytes(), Authority(tmp_path, "first").revoke(days=2)
    end = find_first_end(first)
    assert timedelta(days=1.9) < end - datetime.now(UTC) < timedelta(days=2)
    first.write_bytes(later + first.read_bytes())
    assert find_first_end(first) == end


@pytest.mark.parametrize("size", range(0, 120, 7))
def test_a_list_that_is_cut_off_is_refused_by_name(tmp_path, size: int) -> None:
    path = Authority(tmp_path, "hospital").revoke()
    body = b64encode(b64decode(b"".join(path.read_bytes().splitlines()[1:-1]))[:size])
    path.write_bytes(b"-----BEGIN X509 CRL-----\n" + body + b"\n-----END X509 CRL-----\n")
    with pytest.raises(EdgeStartError, match=r"a list of .* cannot be read|has no list"):
        find_first_end(path)


@pytest.fixture
def devices(tmp_path) -> Path:
    """Return a kernel's list of block devices: the test's folder lies on LUKS on a mirror of two partitions."""
    number = tmp_path.stat().st_dev
    block = tmp_path / "block"
    for name, uuid in (("dm-0", "CRYPT-LUKS2-0123"), ("md0", "")):
        (block / name / "slaves").mkdir(parents=True)
        if uuid:
            (block / name / "dm").mkdir()
            (block / name / "dm/uuid").write_text(f"{uuid}\n")
    (block / "md0/md").mkdir()
    (block / "md0/md/level").write_text("raid1\n")
    (block / "dm-0/slaves/md0").symlink_to(block / "md0")
    for disk in ("sda", "sdb"):
        (block / disk / f"{disk}1").mkdir(parents=True)
        (block / disk / f"{disk}1/partition").write_text("1\n")
        (block / f"md0/slaves/{disk}1").symlink_to(block / disk / f"{disk}1")
    devices = tmp_path / "dev"
    devices.mkdir()
    (devices / f"{os.major(number)}:{os.minor(number)}").symlink_to(block / "dm-0")
    return devices


def test_a_mirror_and_encryption_are_found_in_any_layer(tmp_path, devices) -> None:
    assert find_disk(tmp_path, devices) == Disk("dm-0", is_mirrored=True, is_encrypted=True)
    (tmp_path / "block/md0/md/level").write_text("raid0\n")
    (tmp_path / "block/dm-0/dm/uuid").unlink()
    assert find_disk(tmp_path, devices) == Disk("dm-0", is_mirrored=False, is_encrypted=False)


def test_a_file_system_without_a_device_has_none(tmp_path) -> None:
    assert find_disk(tmp_path, tmp_path / "nothing") == Disk("", is_mirrored=False, is_encrypted=False)


def test_a_spool_whose_disk_shows_no_mirror_is_noted(tmp_path, monkeypatch) -> None:
    (tmp_path / "state").mkdir()
    settings = load_settings(write_settings(tmp_path, ENDPOINT, store="spool", spool={"redundant": True}))
    monkeypatch.setattr("airlock_edge.checks.find_disk", lambda _: Disk("sda1", is_mirrored=False, is_encrypted=False))
    notes = "\n".join(find_warnings(settings))
    assert "Linux sees no mirror" in notes
    assert "Linux sees no encryption" in notes
    monkeypatch.setattr("airlock_edge.checks.find_disk", lambda _: Disk("dm-0", is_mirrored=True, is_encrypted=True))
    assert "Linux sees" not in "\n".join(find_warnings(settings))
