"""NOTICE names every package of requirements.lock, with the licence that the package states."""

from __future__ import annotations

import pytest
from supply.licences import find_licence
from supply.lock import Pin, read_lock
from supply.notice import NOTICE, read_notice, write_notice

from tests.markdown import ROOT

PINS = read_lock(ROOT / "requirements.lock")
STATED = read_notice(NOTICE.read_text(encoding="utf-8"))
# Licences under which an image may not be handed on without its whole source, or not for this purpose.
REFUSED = ("AGPL", "SSPL", "BUSL", "NonCommercial", "Proprietary")


def pin(name: str, version: str = "1.0", marker: str = "") -> Pin:
    return Pin(name, version, marker, ("0" * 64,), ())


def test_it_has_the_packages_of_the_lock_and_no_others() -> None:
    assert list(STATED) == [(one.name, one.version) for one in PINS], "write it again: make notice"


def test_a_licence_is_what_the_installed_package_states() -> None:
    installed = {(one.name, one.version): licence for one in PINS if (licence := find_licence(one)) is not None}
    assert len(installed) > len(PINS) - 12  # a package of another Python or system is not installed
    changed = {key: licence for key, licence in installed.items() if STATED[key] not in (licence, None)}
    assert changed == {}, "write it again: make notice"


def test_only_a_package_of_another_python_or_system_is_without_a_licence() -> None:
    markers = {(one.name, one.version): one.marker for one in PINS}
    assert [key for key, licence in STATED.items() if licence is None and not markers[key]] == []


def test_no_licence_forbids_handing_the_image_on() -> None:
    assert [key for key, licence in STATED.items() if any(word in (licence or "") for word in REFUSED)] == []


def test_a_package_that_has_to_be_installed_and_is_not_is_refused() -> None:
    missing = pin("not-installed")
    with pytest.raises(ValueError, match=r"not-installed 1\.0 is not installed"):
        write_notice([missing], {missing: find_licence(missing)})


def test_a_package_of_another_system_is_named_with_where_it_is_installed() -> None:
    windows = pin("for-windows", marker="sys_platform == 'win32'")
    text = write_notice([windows], {windows: None})
    assert "not read, since it is installed only where sys_platform == 'win32'" in text
    assert read_notice(text) == {("for-windows", "1.0"): None}


def test_another_installed_version_states_nothing_about_the_locked_one() -> None:
    assert find_licence(pin("pytest", "0.0.1")) is None
