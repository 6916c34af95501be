# One image for the worker, its runs, and the MLflow server. Its user can write to /data, its home and /tmp only; all else
# is root's, so the image also runs with a read-only root, without capabilities (compose.yaml, configs/work_pools).
#   docker build --tag copytrace:cpu .
#   docker build --tag copytrace:gpu --build-arg EXTRAS=gpu,stack .
FROM python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

ARG EXTRAS=cpu,stack
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

RUN useradd --create-home --uid 1000 copytrace && install --directory --owner copytrace /data
WORKDIR /opt/copytrace
COPY . .
# Everything at the versions of the lock, with hashes checked; nothing is resolved. Byte code is written here, as no
# process can write it later.
RUN pip install --no-deps --require-hashes --requirement "locks/$(echo "${EXTRAS}" | tr , -).txt" \
    && pip install --no-deps --no-build-isolation --editable . \
    && chmod --recursive go-w,a+rX . \
    && python -m compileall -q configs copytrace flows models tasks
ENV PYTHONDONTWRITEBYTECODE=1
USER copytrace
VOLUME /data
CMD ["copytrace", "--help"]
