"""make secrets: a secret of the right length for each variable, in a file that stays as it is."""

from __future__ import annotations

import base64
import os
import re
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from airlock_local.env_file import EnvFileError, fill_in, read_names, write_env
from airlock_local.settings import ROOT

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = ROOT / ".env.example"


def values(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_env(EXAMPLE, tmp_path / ".env")
    return tmp_path / ".env"


def test_every_secret_is_new_and_everything_else_is_the_example_s(written: Path) -> None:
    example, made = values(EXAMPLE.read_text()), values(written.read_text())
    secret = {name for name, value in example.items() if value == "replace-me"}
    assert secret
    assert len({made[name] for name in secret}) == len(secret)
    assert {name: value for name, value in made.items() if name not in secret} == {
        name: value for name, value in example.items() if name not in secret
    }
    assert fill_in(EXAMPLE.read_text()) != written.read_text()


def test_keys_have_the_lengths_that_airflow_asks_for(written: Path) -> None:
    made = values(written.read_text())
    assert len(base64.urlsafe_b64decode(made["FERNET_KEY"])) == 32
    assert len(made["JWT_SECRET"].encode()) >= 64  # PyJWT warns below, for HS512
    assert len(made["API_SECRET_KEY"].encode()) >= 64


def test_passwords_can_stand_in_an_address_as_they_are(written: Path) -> None:
    made = values(written.read_text())
    passwords = [value for name, value in made.items() if name.endswith("_PASSWORD")]
    assert passwords
    assert all(re.fullmatch(r"[\w-]{43}", value) for value in passwords)


def test_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_env(EXAMPLE, tmp_path / ".env")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600


def test_a_file_that_is_there_stays_as_it_is(written: Path) -> None:
    before = written.read_bytes()
    assert "was not changed" in write_env(EXAMPLE, written)
    assert written.read_bytes() == before


def test_a_file_that_lacks_values_is_named_with_them_and_stays_as_it_is(written: Path) -> None:
    kept = [line for line in written.read_text().splitlines() if not line.startswith("JWT_SECRET=")]
    text = "\n".join(kept).replace(f"ADMIN_PASSWORD={values(written.read_text())['ADMIN_PASSWORD']}", "ADMIN_PASSWORD=")
    written.write_text(text)
    with pytest.raises(EnvFileError, match="for ADMIN_PASSWORD, JWT_SECRET, and was not changed"):
        write_env(EXAMPLE, written)
    assert written.read_text() == text


def test_the_message_about_a_file_that_lacks_values_has_a_command_that_writes_them(tmp_path: Path) -> None:
    """Whoever called make secrets has given no option, so the sentence has the whole command."""
    (tmp_path / ".env").write_text("COMPOSE_PROFILES=local\n")
    with pytest.raises(EnvFileError) as refused:
        write_env(EXAMPLE, tmp_path / ".env")
    (command,) = re.findall("`(.+)`", str(refused.value))
    subprocess.run(command, shell=True, check=True, cwd=ROOT, capture_output=True)
    assert read_names(EXAMPLE.read_text()) == read_names((tmp_path / ".env.new").read_text(), usable=True)


def test_names_of_a_file_are_those_that_have_a_value() -> None:
    assert read_names("# A=1\nB=\nC=replace-me\nD=4\n", usable=True) == {"D"}
    assert read_names("# A=1\nB=\nC=replace-me\nD=4\n") == {"B", "C", "D"}


def test_the_command_needs_nothing_but_python(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", "-c", "import sys; sys.path[:0] = sys.argv[1:2]; del sys.argv[1]; "]
    command[-1] += "from airlock_local.env_file import main; sys.exit(main())"
    options = [str(ROOT / "include"), "--example", str(EXAMPLE), "--target", str(tmp_path / ".env")]
    done = subprocess.run([*command, *options], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "was written" in done.stdout
