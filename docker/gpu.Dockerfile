# dreamer_ray with CUDA: the learner and the replica nodes of a cluster, or one machine. In the root of the clone:
#   docker build --file docker/gpu.Dockerfile --tag dreamer-ray:gpu .
#   docker run --rm --gpus all --shm-size 8g --volume "$PWD/runs:/dreamer_ray/runs" dreamer-ray:gpu \
#     run configs/crafter/tiny.yaml cluster.gpus_per_worker=1 cluster.gpus_per_replica=0.5
# PyPI's torch brings the CUDA libraries along; the host brings the driver (for CUDA 13) and the NVIDIA container toolkit.
# The mounted folder must be writable for user 1000. KubeRay starts `ray` in place of the entry point.
FROM python:3.11.15-slim-bookworm AS wheel
WORKDIR /dreamer_ray
COPY pyproject.toml LICENSE ./
COPY configs configs
COPY dreamer_ray dreamer_ray
RUN pip wheel --no-cache-dir --no-deps --wheel-dir wheel .

FROM python:3.11.15-slim-bookworm
# torch.compile calls the compiler (cluster.tuning.compile, cluster.dreaming.compile); the probes that KubeRay's operator gives to pods
# call wget, without which no pod ever becomes ready.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++=4:12.2.0-3 wget=1.21.* \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /dreamer_ray
COPY docker/constraints-cpu.txt docker/
# The same versions as without GPU: nodes of both kinds meet in one cluster.
RUN pip install --no-cache-dir --constraint docker/constraints-cpu.txt torch==2.13.0 torchvision==0.28.0
COPY --from=wheel /dreamer_ray/wheel wheel
RUN pip install --no-cache-dir --constraint docker/constraints-cpu.txt "ray[default,data,train,serve]==2.60.0" wheel/*.whl
COPY configs configs
RUN useradd --create-home --uid 1000 dreamer \
 && install --directory --owner dreamer runs
ENV RAY_USAGE_STATS_ENABLED=0 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
ENTRYPOINT ["dreamer-ray"]
CMD ["--help"]
