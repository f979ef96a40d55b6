# What teams deploy: `docker build --target service`. Without a target it is the arena's entry, at the end.
# BASE may be any image with Python 3.11 or later, pip and env(1) of GNU coreutils; a digest pins it:
# --build-arg BASE=python@sha256:...
ARG BASE=python:3.13-slim
FROM ${BASE} AS service

LABEL org.opencontainers.image.title="granian-json" \
      org.opencontainers.image.description="GET /json/{count} from raw ASGI, msgspec and Granian" \
      org.opencontainers.image.licenses="MIT"

COPY requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
        --require-hashes -r /tmp/requirements.txt \
    && rm /tmp/requirements.txt

# At the root, so that server.toml's certs/ is /certs, where the arena and compose.yaml mount a pair.
WORKDIR /
COPY server.toml /server.toml
COPY app /app

ENV HOST=0.0.0.0 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
EXPOSE 8080 8081
# A script that imports little, and learns from the launcher what to ask: a quarter of the CPU time of app.launcher.probe.
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s CMD ["python", "-I", "-S", "/app/launcher/health.py"]
# Signals wait until the launcher takes them: a stop in the first 40 ms, before Python's first line, is a stop, too.
ENTRYPOINT ["env", "--block-signal=TERM,INT,HUP", "python", "-m", "app"]

# Last, as they change with each build; nothing is built anew for them.
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"

# The arena's entry (docs/arena.md): the same, with its endpoints, and HTTP/2 in cleartext.
FROM service AS arena
COPY arena.toml /arena.toml
# Some of its profiles mount no pair: then a self-signed one is made. What teams deploy refuses to start without one.
ENV CONFIG=/arena.toml SELF_SIGNED=1
EXPOSE 8082
