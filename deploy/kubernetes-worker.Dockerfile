# The image of the worker and the watch of a cluster; runs have the image copytrace:gpu.
#   docker build --tag copytrace:kubernetes --file deploy/kubernetes-worker.Dockerfile .
FROM copytrace:cpu
USER root
RUN pip install "prefect-kubernetes>=0.8,<0.9"
USER copytrace
