"""The choices of the emulator where AWS is silent, and their table in the docs."""

from __future__ import annotations

from pathlib import Path

import pytest

from localaws.choices import all_choices
from localaws.settings import Settings, read_settings

PAGE = Path(__file__).parents[3] / "docs" / "localaws.md"


def test_the_default_of_a_choice_is_its_first_alternative() -> None:
    assert all(next(iter(choice.alternatives)) == choice.default for choice in all_choices().values())


def test_the_docs_list_every_choice_with_its_answers_and_what_aws_says() -> None:
    rows = [
        f"| `{choice.id}` | {', '.join(f'`{answer}`' for answer in choice.alternatives)} | {choice.aws} |"
        for choice in all_choices().values()
    ]
    assert "\n".join(rows) in PAGE.read_text(encoding="utf-8")


def test_an_answer_that_is_not_given_is_the_default() -> None:
    settings = read_settings(["--choices", "output_uri=as_given", "--choices", "fhir_manifest=manifest.json"], {})
    assert settings.choice("output_uri") == "as_given"
    assert settings.choice("fhir_manifest") == "manifest.json"
    assert settings.choice("warned_in_success") == "no"


@pytest.mark.parametrize(
    ("answers", "named"),
    [({"output_url": "as_given"}, "no choice 'output_url'"), ({"output_uri": "elsewhere"}, "job_folder, as_given")],
)
def test_an_unknown_choice_or_answer_is_refused_with_those_that_exist(answers: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Settings(choices=answers)
