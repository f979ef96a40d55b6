"""Load a running service from outside: `python -m bench.load http://HOST:8080 https://HOST:8081`.

It compares bodies with the oracle's, sends the arena's mix with wrk, and opens TLS connections at once with h2load. The
exit status is 1 if a body was wrong, a response was not 200 or a socket failed. Standard library alone: it runs in an image.

CONNECTIONS (256), DURATION (5) and DATASET_PATH override; TLS is verified against TLS_CERT if that file exists.
"""

import os
import random
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

from bench import oracle
from bench.generators import MeasurementError, h2load, parse_h2load, parse_wrk, wrk


def trust(certificate: Path) -> ssl.SSLContext:
    """Trust the served certificate itself, whatever its names: they are not those of this network."""
    context = ssl.create_default_context(cafile=certificate) if certificate.exists() else ssl.create_default_context()
    context.check_hostname = False
    if certificate.exists():
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    else:
        print(f"{certificate} is not there (a pair made for the run?): TLS is not verified")
        context.verify_mode = ssl.CERT_NONE
    return context


def check_bodies(url: str, context: ssl.SSLContext | None, dataset: Path) -> None:
    """Compare bodies of random requests, none of them in the mix, with the oracle's; raises MeasurementError."""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=context) if context else urllib.request.HTTPHandler(),
    )
    for _ in range(50):
        count, multiplier = random.randint(1, 50), random.randint(9, 89)
        with opener.open(f"{url}/json/{count}?m={multiplier}", timeout=10) as response:
            if response.read() != oracle.body(count, multiplier, dataset):
                raise MeasurementError(f"{url}: a wrong body for count={count} m={multiplier}")


def run(command: list[str], timeout: float) -> str:
    """Run a load generator and return its output."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=timeout).stdout


def main(urls: list[str]) -> int:
    """Check and load each URL, print a line for each measurement."""
    connections, seconds = int(os.environ.get("CONNECTIONS", "256")), int(os.environ.get("DURATION", "5"))
    dataset = Path(os.environ.get("DATASET_PATH", oracle.BUNDLED))
    certificate = Path(os.environ.get("TLS_CERT", "/certs/server.crt"))
    threads = min(connections, len(os.sched_getaffinity(0)))
    try:
        for url in urls:
            tls = url.startswith("https:")
            check_bodies(url, trust(certificate) if tls else None, dataset)
            print(f"{url}: 50 bodies as the oracle's")
            burst = parse_wrk(run(wrk(url, connections, seconds, threads), seconds + 60))
            print(
                f"{url}: {connections} connections, {seconds} s: rps {burst.rps:.0f}, p50 {burst.p50:.2f} ms,"
                f" p99 {burst.p99:.2f} ms, transfer {burst.transfer / 1e6:.1f} MB/s, errors 0",
                flush=True,
            )
            if tls:
                requests = connections * 4
                output = run(h2load(f"{url}/json/10?m=2", connections, requests), 120)
                handshakes = parse_h2load(output, requests, len(oracle.body(10, 2, dataset)))
                print(
                    f"{url}: {connections} connections at once, {requests} requests: {handshakes.seconds:.2f} s, errors 0"
                )
    except (MeasurementError, OSError, subprocess.SubprocessError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
