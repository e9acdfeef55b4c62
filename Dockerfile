# The images of Airlock and of the local AWS servers that docker-compose.yaml starts.
# BASE is any image with Python 3.11 to 3.13 and pip; the official Airflow image adds Airflow's entrypoint and user.
ARG BASE=apache/airflow:3.3.2
FROM ${BASE} AS airlock

ENV AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/airflow/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/airflow/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRLOCK_PIPELINES=/opt/airflow/pipelines

COPY requirements.lock /opt/airlock/
RUN pip install --no-cache-dir --require-hashes -r /opt/airlock/requirements.lock

# setuptools is in the lock, so that building the package downloads nothing.
COPY pyproject.toml README.md LICENSE /opt/airlock/source/
COPY include /opt/airlock/source/include
RUN cp -r /opt/airlock/source /tmp/airlock \
 && pip install --no-cache-dir --no-deps --no-build-isolation /tmp/airlock \
 && rm -rf /tmp/airlock

COPY dags /opt/airflow/dags
COPY plugins /opt/airflow/plugins
COPY include/pipelines /opt/airflow/pipelines
COPY deploy/compose/healthy /opt/airlock/healthy
COPY LICENSE NOTICE SECURITY.md /opt/airlock/

# The code is root's and stays as it is: Python could not keep what it compiles later. New volumes of Compose belong to
# whom the folder in the image belongs to.
USER root
RUN python -m compileall -q /opt/airflow/dags /opt/airflow/plugins \
 && install -d -o 50000 -g 0 -m 0770 /opt/airflow/logs /opt/airflow/secrets /opt/airflow/scratch
USER 50000:0

FROM airlock AS local-aws
COPY requirements-local.lock /opt/airlock/
RUN pip install --no-cache-dir --require-hashes -r /opt/airlock/requirements-local.lock

# With Airflow's FAB auth manager, for docker-compose.fab.yaml.
FROM airlock AS airlock-fab
COPY requirements-fab.lock /opt/airlock/
RUN pip install --no-cache-dir --require-hashes -r /opt/airlock/requirements-fab.lock
COPY deploy/fab /opt/airflow/fab

# With the KubernetesExecutor besides, for deploy/helm/values-kubernetes.yaml.
FROM airlock-fab AS airlock-kubernetes
COPY requirements-kubernetes.lock /opt/airlock/
RUN pip install --no-cache-dir --require-hashes -r /opt/airlock/requirements-kubernetes.lock
