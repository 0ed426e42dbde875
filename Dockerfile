# Two stages: the wheel and its dependencies are built in the first, the second has neither pip's cache nor a compiler.
# Run it read-only, its state on a volume:
#   docker run --read-only --tmpfs /tmp -v state:/var/lib/signup-sidecar -v ./config.toml:/etc/signup-sidecar/config.toml:ro \
#     -p 8080:8080 signup-sidecar
# The configuration listens on 0.0.0.0:8080, and has server.state_dir = "/var/lib/signup-sidecar".

FROM python:3.14-slim AS build
WORKDIR /src
COPY pyproject.toml build_hook.py README.md LICENSE ./
COPY sidecar ./sidecar
RUN python -m venv /opt/sidecar \
 && /opt/sidecar/bin/pip install --no-cache-dir --disable-pip-version-check . \
 && /opt/sidecar/bin/python -m compileall -q /opt/sidecar/lib

FROM python:3.14-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/signup-sidecar --create-home --shell /usr/sbin/nologin sidecar \
 && chmod 0700 /var/lib/signup-sidecar
COPY --from=build /opt/sidecar /opt/sidecar
ENV PATH="/opt/sidecar/bin:$PATH" PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /var/lib/signup-sidecar
VOLUME /var/lib/signup-sidecar
EXPOSE 8080
# The admin listener stays on the container's own loopback; probes of an orchestrator need `admin = "0.0.0.0:9090"`.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9090/healthz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["signup-sidecar"]
CMD ["run", "/etc/signup-sidecar/config.toml"]
