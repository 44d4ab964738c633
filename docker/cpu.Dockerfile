# dreamer_ray without GPU: the head and the data nodes of a cluster, or one machine. In the root of the clone:
#   docker build --file docker/cpu.Dockerfile --build-arg TORCH_INDEX=URL --tag dreamer-ray:cpu .
#   docker run --rm --shm-size 2g --volume "$PWD/runs:/dreamer_ray/runs" dreamer-ray:cpu run configs/crafter/tiny.yaml
# URL is PyTorch's index of CPU builds (their site names it); without it torch comes as its CUDA build, which works and is several GB larger.
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
ARG TORCH_INDEX=""
RUN pip install --no-cache-dir --constraint docker/constraints-cpu.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
    torch==2.13.0 torchvision==0.28.0
COPY --from=wheel /dreamer_ray/wheel wheel
RUN pip install --no-cache-dir --constraint docker/constraints-cpu.txt "ray[default,data,train,serve]==2.60.0" wheel/*.whl
COPY configs configs
RUN useradd --create-home --uid 1000 dreamer \
 && install --directory --owner dreamer runs
ENV RAY_USAGE_STATS_ENABLED=0
USER 1000
ENTRYPOINT ["dreamer-ray"]
CMD ["--help"]
