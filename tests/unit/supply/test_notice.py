"""NOTICE names every package of each image, with the licence that the package states."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from supply.licences import find_licence
from supply.lock import Pin, read_lock
from supply.notice import NOTICE, list_packages, read_notice, read_parts, write_notice

from tests.markdown import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PINS = read_lock(ROOT / "requirements.lock")
LISTS = list_packages()
TEXT = NOTICE.read_text(encoding="utf-8")
STATED = read_notice(TEXT)
# Licences under which an image may not be handed on without its whole source, or not for this purpose.
REFUSED = ("AGPL", "SSPL", "BUSL", "NonCommercial", "Proprietary")


def pin(name: str, version: str = "1.0", marker: str = "") -> Pin:
    return Pin(name, version, marker, ("0" * 64,), ())


def test_each_part_has_the_packages_of_its_lock_and_no_others() -> None:
    expected = {lock: [(one.name, one.version) for one in pins] for lock, pins in LISTS.items()}
    assert {lock: list(part) for lock, part in read_parts(TEXT).items()} == expected, "write it again: make notice"


def test_every_lock_that_an_image_installs_has_a_part() -> None:
    built = [(ROOT / name).read_text(encoding="utf-8") for name in ("Dockerfile", "deploy/edge/Containerfile")]
    installed = re.findall(r"-r /opt/airlock/(\S+\.lock)", "".join(built))
    assert sorted(installed) == sorted(LISTS)


def test_the_parts_of_an_image_are_all_packages_of_its_lock() -> None:
    below = {(one.name, one.version) for lock in ("requirements.lock", "requirements-fab.lock") for one in LISTS[lock]}
    own = {(one.name, one.version) for one in LISTS["requirements-kubernetes.lock"]}
    assert own & below == set()
    assert own | below >= {(one.name, one.version) for one in read_lock(ROOT / "requirements-kubernetes.lock")}


def test_a_licence_is_what_the_installed_package_states() -> None:
    pins = [one for part in LISTS.values() for one in part]
    installed = {(one.name, one.version): licence for one in pins if (licence := find_licence(one)) is not None}
    assert len(installed) > len(PINS) - 12  # a package of another Python or system is not installed
    changed = {key: licence for key, licence in installed.items() if STATED[key] not in (licence, None)}
    assert changed == {}, "write it again: make notice"


def test_only_a_package_of_another_python_or_system_is_without_a_licence() -> None:
    markers = {(one.name, one.version): one.marker for part in LISTS.values() for one in part}
    assert [key for key, licence in STATED.items() if licence is None and not markers[key]] == []


def test_no_licence_forbids_handing_the_image_on() -> None:
    assert [key for key, licence in STATED.items() if any(word in (licence or "") for word in REFUSED)] == []


def test_a_package_that_has_to_be_installed_and_is_not_is_refused() -> None:
    missing = pin("not-installed")
    with pytest.raises(ValueError, match=r"not-installed 1\.0 is not installed"):
        write_notice({"requirements.lock": [missing]}, {missing: find_licence(missing)})


def test_a_package_of_another_system_is_named_with_where_it_is_installed() -> None:
    windows = pin("for-windows", marker="sys_platform == 'win32'")
    text = write_notice({"requirements.lock": [windows]}, {windows: None})
    assert "not read, since it is installed only where sys_platform == 'win32'" in text
    assert read_notice(text) == {("for-windows", "1.0"): None}


def test_another_installed_version_states_nothing_about_the_locked_one() -> None:
    assert find_licence(pin("pytest", "0.0.1")) is None


def test_a_package_may_be_installed_in_a_folder_besides(tmp_path: Path) -> None:
    metadata = tmp_path / "elsewhere-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.4\nName: elsewhere\nVersion: 1.0\nLicense-Expression: MIT\n")
    assert find_licence(pin("elsewhere"), tmp_path) == "MIT"
    assert find_licence(pin("elsewhere")) is None
