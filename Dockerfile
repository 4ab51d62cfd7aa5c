# `train` runs the pipeline, `airflow` schedules it, `app` serves a bundle: docs/docker.md. `engine` is for clusters:
# docs/scale.md.
# Any base image with Python 3.11 to 3.13 and its venv module works.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
RUN groupadd --gid 1000 malaria \
    && useradd --uid 1000 --gid 1000 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin malaria
WORKDIR /opt/malaria-cells

# Each environment is a layer of its own, rebuilt only if its lock file changes. Settings for another package
# index than pip's own, and the certificate of a proxy, come as build secrets, which no layer keeps.
FROM base AS app-environment
COPY requirements-app.lock ./
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=secret,id=ca_certificates \
    python3 -m venv /opt/venv \
    && pip install --no-cache-dir --no-deps --require-hashes -r requirements-app.lock \
    && pip uninstall --yes pip \
    && rm -r /opt/venv/lib/python3*/site-packages/pandas/tests

FROM base AS train-environment
COPY requirements-train.lock ./
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=secret,id=ca_certificates \
    python3 -m venv /opt/venv \
    && pip install --no-cache-dir --no-deps --require-hashes -r requirements-train.lock \
    && pip uninstall --yes pip \
    && rm -r /opt/venv/lib/python3*/site-packages/tensorflow/include /opt/venv/lib/python3*/site-packages/pandas/tests

FROM base AS airflow-environment
COPY orchestration/airflow/requirements.lock ./
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=secret,id=ca_certificates \
    python3 -m venv /opt/airflow \
    && /opt/airflow/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock \
    && /opt/airflow/bin/pip uninstall --yes pip

FROM base AS engine-environment
COPY requirements-engine.lock ./
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=secret,id=ca_certificates \
    python3 -m venv /opt/venv \
    && pip install --no-cache-dir --no-deps --require-hashes -r requirements-engine.lock \
    && pip uninstall --yes pip

FROM base AS engine
COPY --from=engine-environment /opt/venv /opt/venv
COPY malaria malaria
COPY models/pretrained models/pretrained
ENV PYTHONPATH=/opt/malaria-cells DASK_CONFIG=/etc/dask
USER 1000:1000

FROM base AS train
COPY --from=train-environment /opt/venv /opt/venv
COPY . ./
# The image has no git repository, and no folder beside it that is a checkout's default remote.
RUN dvc config --system core.no_scm true && dvc remote remove storage
# DVC asks for the user's name, and most user ids have none in the image.
ENV DVC_SITE_CACHE_DIR=/tmp/dvc MALARIA_CACHE=/data/.downloads USER=malaria
USER 1000:1000
ENTRYPOINT ["python", "-m", "orchestration.workspace", "/data"]
CMD ["dvc", "repro"]

FROM train AS airflow
COPY --from=airflow-environment /opt/airflow /opt/airflow
ENV MALARIA_ENVIRONMENT=/opt/venv
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=10s --start-period=180s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/api/v2/monitor/health', timeout=9)"]
CMD ["/opt/airflow/bin/python", "orchestration/airflow/standalone.py", "--host", "0.0.0.0"]

FROM base AS app
COPY --from=app-environment /opt/venv /opt/venv
COPY LICENSE README.md ./
COPY malaria malaria
COPY app app
# A release's image contains the released model in place of the pretrained one.
ARG BUNDLE=models/pretrained
COPY ${BUNDLE} models/pretrained
USER 1000:1000
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:7860/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "app", "--host", "0.0.0.0"]
