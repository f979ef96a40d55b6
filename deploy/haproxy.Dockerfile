# HAProxy from Debian, its configuration to be mounted: docs/scale-out.md.
FROM debian:trixie-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends haproxy \
    && rm -rf /var/lib/apt/lists/*
USER haproxy
EXPOSE 8080 8081
# With a master process SIGUSR1 stops softly: listeners close, and what is under way ends.
STOPSIGNAL SIGUSR1
CMD ["haproxy", "-W", "-db", "-f", "/etc/haproxy/haproxy.cfg"]
