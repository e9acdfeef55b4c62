"""Flags and environment."""

from __future__ import annotations

import pytest

from localaws.settings import AWS_RATES, LENGTH_LIMITS, Seed, Settings, read_settings
from localaws.throttles import Rate

ONE, TWO = "a" * 32, "b" * 32


def test_without_anything_it_listens_on_loopback() -> None:
    assert read_settings([], {}) == Settings()
    assert Settings().host == "127.0.0.1"


def test_flags_win_over_the_environment() -> None:
    environment = {"LOCALAWS_PORT": "1", "LOCALAWS_REGION": "eu-west-1", "LOCALAWS_AWS_QUOTAS": "true"}
    settings = read_settings(["--port", "2"], environment)
    assert (settings.port, settings.region, settings.aws_quotas) == (2, "eu-west-1", True)


def test_data_stores_repeat() -> None:
    settings = read_settings(["--datastore", f"{ONE}:first", "--datastore", TWO], {})
    assert settings.datastore == (Seed(ONE, "first"), Seed(TWO, TWO))
    assert read_settings([], {"LOCALAWS_DATASTORE": f"{ONE}:x,{TWO}:y"}).datastore == (Seed(ONE, "x"), Seed(TWO, "y"))


def test_data_stores_of_the_two_services_are_told_apart() -> None:
    settings = read_settings(["--healthlake-datastore", f"{ONE}:records", "--datastore", f"{TWO}:images"], {})
    assert (settings.healthlake_datastore, settings.datastore) == ((Seed(ONE, "records"),), (Seed(TWO, "images"),))


def test_profiles_to_publish_repeat() -> None:
    flags = ["--transformation-profile", f"{ONE}:intake", "--transformation-profile", TWO]
    assert read_settings(flags, {}).transformation_profile == (Seed(ONE, "intake"), Seed(TWO, TWO))
    environment = {"LOCALAWS_TRANSFORMATION_PROFILE": f"{ONE}:intake"}
    assert read_settings([], environment).transformation_profile == (Seed(ONE, "intake"),)


def test_allowed_hosts_repeat_in_lower_case() -> None:
    assert read_settings(["--allowed-host", "Health", "--allowed-host", "box"], {}).allowed_host == ("health", "box")
    assert read_settings([], {"LOCALAWS_ALLOWED_HOST": "health, box"}).allowed_host == ("health", "box")


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        (Settings(port=81), "http://127.0.0.1:81"),
        (Settings(host="::1", port=81), "http://[::1]:81"),
        (Settings(public_url="https://aws.example.org/"), "https://aws.example.org"),
    ],
)
def test_clients_reach_it_at_its_address_or_at_the_public_one(settings: Settings, url: str) -> None:
    assert settings.base_url == url


def test_a_switch_needs_no_value() -> None:
    assert read_settings(["--aws-quotas"], {}).aws_quotas is True
    assert read_settings(["--aws-quotas", "false"], {}).aws_quotas is False


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--datastore", "short:name"], "--datastore"),
        (["--healthlake-datastore", "short:name"], "--healthlake-datastore"),
        (["--healthlake-datastore", "z" * 32], "32 hexadecimal digits"),
        (["--transformation-profile", "z" * 32], "32 hexadecimal digits"),
        (["--choices", "structure_only=profiles"], "--choices"),
        (["--port", "many"], "--port"),
        (["--throttles", "GetImageSet=0"], "--throttles"),
        (["--aws-quotas", "perhaps"], "--aws-quotas"),
    ],
)
def test_what_cannot_be_read_is_named(capsys: pytest.CaptureFixture[str], arguments: list[str], named: str) -> None:
    with pytest.raises(SystemExit):
        read_settings(arguments, {})
    assert named in capsys.readouterr().err


def test_single_rates_replace_those_of_the_preset() -> None:
    settings = read_settings(["--aws-quotas", "--throttles", "StartDICOMImportJob=5:9,GetImageSet=3"], {})
    rates = settings.rates()
    assert rates["StartDICOMImportJob"] == Rate(5, 9)
    assert rates["GetImageSet"] == Rate(3, 3)
    assert rates["DescribeFHIRImportJob"] == Rate(10, 10)
    assert rates["DeleteImageSet"] == AWS_RATES["DeleteImageSet"] == Rate(0.25, 1)


def test_single_length_limits_replace_those_of_the_table() -> None:
    limits = read_settings(["--length-limits", "StudyID=16"], {}).limits()
    assert limits == {**LENGTH_LIMITS, "StudyID": 16}
