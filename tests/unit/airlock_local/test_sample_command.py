"""``python -m airlock_local.sample``: what it prints and how it fails."""

import json
from pathlib import Path

import pytest

from airlock_local.sample.__main__ import main


def test_says_what_was_written_by_site_modality_and_trouble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    files = sum(1 for path in tmp_path.rglob("*") if path.is_file())
    assert ["duplicate", "2"] in lines
    assert {"site", "modality", "trouble", "nordhaven", "SR", "(clean)"} <= {line[0] for line in lines if line}
    assert lines[-1][:2] == [str(files), "files,"]


def test_json_has_one_object_per_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--json", "--seed", "3"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all((tmp_path / row["path"]).stat().st_size == row["size"] for row in rows)
    (empty,) = [row for row in rows if row["trouble"] == "zero_bytes"]
    assert (empty["dispositions"], empty["reasons"]) == (["ignored", "quarantined"], ["empty_object"])


def test_a_folder_that_is_a_file_is_one_clear_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "taken")])
    assert stop.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert str(tmp_path / "taken") in message
    assert "Not a directory" in message
