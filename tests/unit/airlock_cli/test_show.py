from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest

from airlock_cli.show import Table, escape_unprintable, format_cell, format_size, print_json, print_tables, say

ESCAPES = "\x1b[31mred\x07\r\x9b2J\u202e\u2028\x7f\x00\udc80"


def test_what_a_terminal_acts_on_or_does_not_show_is_written_out() -> None:
    assert escape_unprintable(ESCAPES) == r"\x1b[31mred\x07\x0d\x9b2J\u202e\u2028\x7f\x00\udc80"


def test_what_people_write_stays_as_it_is() -> None:
    assert escape_unprintable("Zürich/東京 é🙂 [bold]x[/bold]") == "Zürich/東京 é🙂 [bold]x[/bold]"


@pytest.mark.parametrize("where", ["title", "column", "cell"])
def test_no_escape_reaches_the_terminal_by_a_table(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    parts = dict.fromkeys(("title", "column", "cell"), "x") | {where: ESCAPES}
    print_tables([Table(parts["title"], (parts["column"],), [(parts["cell"],)])])
    shown = capsys.readouterr().out
    assert all(one.isprintable() for one in shown.replace("\n", ""))
    assert r"\x1b[31mred" in shown


def test_no_escape_reaches_the_terminal_by_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"two\nlines {ESCAPES}")
    assert capsys.readouterr().err.splitlines() == ["two", f"lines {escape_unprintable(ESCAPES)}"]


def test_json_is_exact_and_sends_no_escape_either(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"key": ESCAPES})
    shown = capsys.readouterr().out
    assert json.loads(shown) == {"key": ESCAPES}
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_a_value_is_never_cut_off(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    uid = "1.2.826.0.1.3680043.8.498." + "7" * 38
    print_tables([Table("t", ("uid",), [(uid,)])])
    assert uid in "".join(capsys.readouterr().out.split())


def test_a_table_without_rows_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_tables([Table("t", ("uid",), [])])
    assert capsys.readouterr().out == ""


def test_cells_are_written_for_people() -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert [format_cell(value) for value in (None, True, noon, ["a", 1])] == ["", "yes", "2026-03-01 10:00:00Z", "a, 1"]
    assert [format_size(number) for number in (0, 1023, 1536, 5 * 1024**4)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "5.0 TiB",
    ]


class TestNarrowTerminal:
    """At 100 columns, as in a split screen: every value is on a line of its own or whole in its column."""

    UID = "1.2.826.0.1.3680043.8.498." + "7" * 38
    KEY = "0123456789abcdef"
    SENTENCE = "HealthImaging imported the file with a warning. Check the image set, then approve it."

    @pytest.fixture(autouse=True)
    def narrow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "100")

    def test_a_sentence_is_wrapped_between_words_and_a_key_is_not(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_tables([Table("held", ("subject_key", "reason", "what_to_do"), [(self.KEY, "x" * 30, self.SENTENCE)])])
        lines = capsys.readouterr().out.splitlines()
        assert all(len(line.rstrip()) <= 100 for line in lines)
        assert any(self.KEY in line and "x" * 30 in line for line in lines)
        assert self.SENTENCE.split() == [
            word for line in lines[2:] for word in line.split() if word not in {self.KEY, "x" * 30}
        ]

    def test_what_does_not_fit_is_a_block_a_row(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_tables([Table("uids", ("study", "series", "note"), [(self.UID, self.UID[::-1], self.SENTENCE)] * 2)])
        out = capsys.readouterr().out
        assert out.splitlines()[1:5] == [
            f"  study   {self.UID}",
            f"  series  {self.UID[::-1]}",
            f"  note    {self.SENTENCE}",
            "",
        ]
        assert out.count(self.SENTENCE) == 2

    def test_a_key_with_spaces_is_not_broken_at_them(self, capsys: pytest.CaptureFixture[str]) -> None:
        key = "in/a name of " + "many words " * 8 + ".dcm"
        print_tables([Table("arrivals", ("disposition", "key"), [("held", key)])])
        assert f"  key          {key}\n" in capsys.readouterr().out

    def test_wide_characters_count_twice(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_tables([Table("t", ("a", "b"), [("東" * 40, "y" * 30)])])
        assert f"  a  {'東' * 40}\n" in capsys.readouterr().out
