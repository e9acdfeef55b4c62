import pytest

from airlock_local.settings import ROOT, SettingsError, read_settings


def test_without_variables_the_defaults_hold():
    settings = read_settings({})
    assert (settings.api_port, settings.s3_port, settings.health_port) == (8080, 4566, 4567)
    assert settings.var == ROOT / "var"


def test_variables_move_ports_and_folders(tmp_path):
    settings = read_settings({"AIRLOCK_API_PORT": "18080", "AIRLOCK_VAR": str(tmp_path / "a b")})
    assert settings.api_url == "http://127.0.0.1:18080"
    assert settings.ledger_url == f"sqlite:///{tmp_path}/a b/ledger.db"


def test_an_empty_variable_means_the_default():
    assert read_settings({"AIRLOCK_API_PORT": ""}).api_port == 8080


@pytest.mark.parametrize("value", ["http", "0", "65536", "nan"])
def test_a_value_that_is_no_port_is_refused_by_name(value):
    with pytest.raises(SettingsError, match=f"AIRLOCK_S3_PORT is '{value}'. Set it to a number from 1 to 65535"):
        read_settings({"AIRLOCK_S3_PORT": value})


def test_two_parts_cannot_share_a_port():
    with pytest.raises(SettingsError, match="AIRLOCK_S3_PORT=9000, AIRLOCK_HEALTH_PORT=9000"):
        read_settings({"AIRLOCK_S3_PORT": "9000", "AIRLOCK_HEALTH_PORT": "9000"})


def test_airflow_keeps_its_metadata_in_sqlite_unless_a_server_is_named(tmp_path):
    assert read_settings({"AIRLOCK_VAR": str(tmp_path)}).metadata_url == f"sqlite:///{tmp_path}/airflow/airflow.db"
    url = "postgresql+psycopg2://airlock@/airflow?host=%2Frun%2Fpostgresql"
    assert read_settings({"AIRLOCK_METADATA_URL": url}).metadata_url == url


def test_another_database_is_refused_without_its_password():
    with pytest.raises(SettingsError, match="AIRLOCK_METADATA_URL") as refused:
        read_settings({"AIRLOCK_METADATA_URL": "mysql://airlock:SECRET@db/airflow"})
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize("url", ["statsd://127.0.0.1:8125", "http://127.0.0.1:4318/v1/metrics"])
def test_metrics_go_where_the_setting_says(url):
    assert read_settings({"AIRLOCK_METRICS": url}).metrics_url == url


@pytest.mark.parametrize("url", ["statsd://127.0.0.1", "127.0.0.1:8125", "file:///tmp/metrics"])
def test_an_address_for_metrics_of_another_kind_is_refused(url):
    with pytest.raises(SettingsError, match="AIRLOCK_METRICS is neither statsd://host:port nor the http:// address"):
        read_settings({"AIRLOCK_METRICS": url})
