# Image for a cluster: Ray, the funnel, and either the artifact (target `baked`) or a mount point for it (the default).
#
#   docker build -t rayfunnel:0.1.0-cpu --build-arg TORCH_INDEX=… .                      # PyTorch's index of CPU builds
#   docker build -t rayfunnel:0.1.0-gpu --build-arg DEVICE=gpu --build-arg TORCH_INDEX=… .    # of CUDA builds
#   docker build -t rayfunnel:0.1.0-mine --target baked --build-arg ARTIFACT=artifacts/mine .
#
# Everything is installed into the system's Python: KubeRay starts `ray` in a shell without a virtual environment.
FROM python:3.11-slim-bookworm AS base

# cpu or gpu; gpu adds torch-tensorrt. CUDA's libraries come with torch, the driver comes from the node.
ARG DEVICE=cpu
# Extra index where pip finds the torch build for the device. pip prefers a build named 2.13.0+cpu to plain 2.13.0.
ARG TORCH_INDEX=

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The manifests run as this user. /srv/rayfunnel contains data/drift.
RUN useradd --uid 1000 --create-home --shell /bin/bash rayfunnel \
    && mkdir -p /srv/rayfunnel /artifacts \
    && chown rayfunnel:rayfunnel /srv/rayfunnel
WORKDIR /opt/rayfunnel

# Install torch first and alone, as the Makefile does. It has its own layer because the code changes more often.
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
# Check the commands and imports of the head, its autoscaler and Serve: fail at build time, not in a pod.
RUN ray --version \
    && python -c "import graphs.recommendation, cluster.autoscaling.serve_adapter, ray.autoscaler._private.kuberay.run_autoscaler"
CMD ["bash"]

FROM base AS baked
ARG ARTIFACT=artifacts/movielens
COPY ${ARTIFACT} /artifacts/model

FROM base AS mounted
