"""The one-machine stack behind ``make run``: local AWS, Airflow's four parts, and one delivery through them."""
