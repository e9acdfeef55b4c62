"""The eight stages as Airflow operators and sensors: thin, each calls the library module of its own name.

``stage`` holds what they share: the pipeline, and a run opened from the task's context.
"""
