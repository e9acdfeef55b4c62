"""The command ``airlock``: what operators ask and start from a terminal; it knows the library, and Airflow by REST."""
