# One image for the worker, its runs, and the MLflow server.
#   docker build --tag copytrace:cpu .
#   docker build --tag copytrace:gpu --build-arg EXTRAS=gpu,stack .
FROM python:3.11.14-slim-bookworm

ARG EXTRAS=cpu,stack
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

RUN useradd --create-home --uid 1000 copytrace && install --directory --owner copytrace /opt/copytrace /data
WORKDIR /opt/copytrace
COPY --chown=copytrace . .
# Everything at the versions of the lock, with hashes checked; nothing is resolved.
RUN pip install --no-deps --require-hashes --requirement "locks/$(echo "${EXTRAS}" | tr , -).txt" \
    && pip install --no-deps --no-build-isolation --editable .
USER copytrace
VOLUME /data
CMD ["copytrace", "--help"]
