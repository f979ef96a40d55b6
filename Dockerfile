FROM python:3.13-slim

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

ENV HOST=0.0.0.0 H2C_PORT=8082 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
EXPOSE 8080 8081 8082
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s CMD ["python", "-m", "app.launcher.probe"]
# Signals wait until the launcher takes them: a stop in the first 40 ms, before Python's first line, is a stop, too.
CMD ["env", "--block-signal=TERM,INT,HUP", "python", "-m", "app"]
