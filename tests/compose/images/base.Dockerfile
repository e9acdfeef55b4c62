# A base image where apache/airflow cannot be pulled: Debian's Python, and the user of Airflow's image.
ARG DEBIAN=debian:trixie-slim
FROM ${DEBIAN}
RUN apt-get update \
 && apt-get install -y --no-install-recommends bash ca-certificates procps python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 50000 --gid 0 --create-home airflow && install -d -o 50000 -g 0 /opt/airflow /opt/airlock
USER 50000:0
RUN python3 -m venv /home/airflow/venv
ENV PATH=/home/airflow/venv/bin:$PATH
