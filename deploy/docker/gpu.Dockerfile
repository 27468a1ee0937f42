# sgl-indexcache on NVIDIA GPUs: our wheel on SGLang's own image. Build from the repository root:
#
#   docker build -f deploy/docker/gpu.Dockerfile --build-arg SGLANG_DIGEST=sha256:... -t sgl-indexcache .
#
# SGLANG_DIGEST has no default; without it the build ends with "SGLANG_DIGEST: missing". It is the digest of
# lmsysorg/sglang:v0.5.17, or of one of its CUDA variants, that you have checked yourself:
# `docker buildx imagetools inspect lmsysorg/sglang:v0.5.17` prints it. The tag before the @ only informs.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG SGLANG_DIGEST

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
RUN pip install --no-cache-dir build==1.6.1 setuptools==84.2.1
COPY pyproject.toml setup.py LICENSE README.md ./
COPY sgl_indexcache sgl_indexcache
COPY kernels kernels
COPY loadtest loadtest
RUN python -m build --wheel --no-isolation --outdir /dist

FROM lmsysorg/sglang:v0.5.17@${SGLANG_DIGEST:?missing}
USER 0
WORKDIR /
# The versions of Ubuntu's packages are those of the image above, which is pinned by digest.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 indexcache \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /cache --shell /usr/sbin/nologin indexcache \
 && install -d -o 10001 -g 10001 -m 0700 /cache
COPY --from=wheel /dist /dist
COPY deploy/docker/constraints.txt /dist/constraints.txt
# What SGLang brings stays as it is; only what is missing comes, in the versions that this was tested with.
RUN python3 -m pip install --no-cache-dir --break-system-packages -c /dist/constraints.txt /dist/*.whl \
 && python3 -c "from importlib.metadata import version as v; assert v('sglang') == '0.5.17', v('sglang')" \
 && rm -r /dist

# Everything that is compiled or fetched while serving goes to /cache; the rest of the root can be read-only.
ENV HOME=/cache \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface \
    TRITON_CACHE_DIR=/cache/triton \
    FLASHINFER_WORKSPACE_BASE=/cache \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    PYTHONDONTWRITEBYTECODE=1
VOLUME ["/cache", "/tmp"]
USER 10001:10001
EXPOSE 30000
# Large weights take their time; the first success ends the start period.
HEALTHCHECK --interval=30s --timeout=60s --start-period=45m --retries=3 CMD ["sgl-indexcache", "health"]
# tini: a process with id 1 cannot be killed from inside, and SGLang ends its own that way.
ENTRYPOINT ["tini", "--", "sgl-indexcache", "serve", "--host", "0.0.0.0", "--port", "30000", "--enable-metrics"]
CMD ["--help"]
