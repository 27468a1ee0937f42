# SGLang's router, which sends a request to the replica that knows most of its prefix.
#
#   docker build -f deploy/docker/router.Dockerfile -t sgl-indexcache-router deploy/docker
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}
RUN pip install --no-cache-dir sglang-router==0.3.2 setproctitle==1.3.7 \
 && groupadd --gid 10001 router \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin router
VOLUME ["/tmp"]
USER 10001:10001
EXPOSE 30000 29000
HEALTHCHECK --interval=30s --timeout=10s --start-period=1m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:30000/liveness', timeout=5)"]
ENTRYPOINT ["python", "-m", "sglang_router.launch_router", "--host", "0.0.0.0", "--port", "30000"]
CMD ["--help"]
