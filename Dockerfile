# rayfunnel for a cluster: Ray, the funnel, and either the artifact (target `baked`) or a place to mount it (the default).
#
#   docker build -t rayfunnel:0.1.0-cpu --build-arg TORCH_INDEX=… .                      # PyTorch's index of CPU builds
#   docker build -t rayfunnel:0.1.0-gpu --build-arg DEVICE=gpu --build-arg TORCH_INDEX=… .    # of CUDA builds
#   docker build -t rayfunnel:0.1.0-mine --target baked --build-arg ARTIFACT=artifacts/mine .
#
# Everything is installed for the system's Python: KubeRay starts `ray` in a shell that knows no virtual environment.
FROM python:3.11-slim-bookworm AS base

# cpu, or gpu: with torch-tensorrt. CUDA's libraries come with torch; the driver is the node's.
ARG DEVICE=cpu
# Where pip finds torch built for the device, beside its usual index; a build named 2.13.0+cpu wins over plain 2.13.0.
ARG TORCH_INDEX=

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The user of the manifests; the folder holds data/drift.
RUN useradd --uid 1000 --create-home --shell /bin/bash rayfunnel \
    && mkdir -p /srv/rayfunnel /artifacts \
    && chown rayfunnel:rayfunnel /srv/rayfunnel
WORKDIR /opt/rayfunnel

# torch first and alone, as in the Makefile. A layer of its own: the code changes more often.
COPY constraints.txt ./
RUN pip install -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch==2.13.0

COPY pyproject.toml README.md LICENSE ./
COPY graphs graphs
COPY deployments deployments
COPY cluster cluster
COPY monitoring monitoring
RUN case "$DEVICE" in \
      cpu) pip install -c constraints.txt . ;; \
      gpu) pip install -c constraints.txt '.[gpu]' ;; \
      *) echo "DEVICE is '$DEVICE'; make it cpu or gpu" >&2; exit 1 ;; \
    esac \
    && rm -rf /opt/rayfunnel

USER rayfunnel
WORKDIR /srv/rayfunnel
# Fails here rather than in a pod: what the head and its autoscaler run, and what Serve imports.
RUN ray --version \
    && python -c "import graphs.recommendation, cluster.autoscaling.serve_adapter, ray.autoscaler._private.kuberay.run_autoscaler"
CMD ["bash"]

FROM base AS baked
ARG ARTIFACT=artifacts/movielens
COPY ${ARTIFACT} /artifacts/model

FROM base AS mounted
