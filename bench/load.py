"""Load a running service from beside it: `python -m bench.load http://HOST:8080 https://HOST:8081`.

Bodies are compared with the oracle's first, then wrk sends the arena's mix, and h2load opens TLS connections. The exit
status is 1 when a body was wrong, an answer was not 200 or a socket failed. Standard library alone: it runs in an image.

CONNECTIONS (256), DURATION (5) and DATASET_PATH override; TLS is verified against TLS_CERT where that file exists.
"""

import os
import random
import re
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

from bench import oracle

WRK_FIGURES = {
    "rps": r"Requests/sec:\s+([\d.]+)",
    "p50": r"\s50%\s+(\S+)",
    "p99": r"\s99%\s+(\S+)",
    "transfer/s": r"Transfer/sec:\s+(\S+)",
}
WRK_ERRORS = r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)|Non-2xx or 3xx responses: (\d+)"


class LoadError(Exception):
    """A measurement that does not count, and why."""


def trust(certificate: Path) -> ssl.SSLContext:
    """Trust the served certificate itself; its names are those of the outside, not of this network."""
    context = ssl.create_default_context(cafile=certificate) if certificate.exists() else ssl.create_default_context()
    context.check_hostname = False
    if certificate.exists():
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    else:
        print(f"{certificate} is not there (a pair made for the run?): TLS is not verified")
        context.verify_mode = ssl.CERT_NONE
    return context


def check_bodies(url: str, context: ssl.SSLContext | None, dataset: Path) -> None:
    """Compare bodies for random pairs, none of them in the mix, with the oracle's."""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=context) if context else urllib.request.HTTPHandler(),
    )
    for _ in range(50):
        count, multiplier = random.randint(1, 50), random.randint(9, 89)
        with opener.open(f"{url}/json/{count}?m={multiplier}", timeout=10) as response:
            if response.read() != oracle.body(count, multiplier, dataset):
                raise LoadError(f"{url}: a wrong body for count={count} m={multiplier}")


def wrk(url: str, connections: int, seconds: int) -> dict[str, str]:
    """Send the mix and return wrk's figures, as it writes them; any error is a LoadError."""
    threads = min(connections, len(os.sched_getaffinity(0)))
    command = ["wrk", "--latency", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "-s", "bench/mix.lua", url]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
    if errors := re.search(WRK_ERRORS, output):
        raise LoadError(f"{url}: {errors[0]}")
    figures = {name: re.search(pattern, output) for name, pattern in WRK_FIGURES.items()}
    if missing := [name for name, match in figures.items() if match is None]:
        raise LoadError(f"{url}: no {', '.join(missing)} in wrk's output:\n{output}")
    return {name: match[1] for name, match in figures.items() if match} | {"errors": "0"}


def handshakes(url: str, connections: int) -> dict[str, str]:
    """Open connections at once, four requests each, and return h2load's figures."""
    total = connections * 4
    command = ["h2load", "--h1", "-n", str(total), "-c", str(connections), f"{url}/json/10?m=2"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    finished = re.search(r"finished in (\S+),", output)
    if finished is None or f"status codes: {total} 2xx, 0 3xx, 0 4xx, 0 5xx" not in output:
        raise LoadError(f"{url}: h2load says\n{output}")
    return {"connections at once": str(connections), "requests": str(total), "time": finished[1], "errors": "0"}


def main(urls: list[str]) -> int:
    """Check and load each URL, print a line for each measurement."""
    connections, seconds = int(os.environ.get("CONNECTIONS", "256")), int(os.environ.get("DURATION", "5"))
    dataset = Path(os.environ.get("DATASET_PATH", oracle.BUNDLED))
    certificate = Path(os.environ.get("TLS_CERT", "/certs/server.crt"))
    try:
        for url in urls:
            tls = url.startswith("https:")
            check_bodies(url, trust(certificate) if tls else None, dataset)
            print(f"{url}: 50 bodies as the oracle's")
            show(f"{url}: {connections} connections, {seconds} s", wrk(url, connections, seconds))
            if tls:
                show(f"{url}: handshakes", handshakes(url, connections))
    except (LoadError, OSError, subprocess.SubprocessError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


def show(what: str, figures: dict[str, str]) -> None:
    """Print a measurement in a line."""
    print(f"{what}: " + ", ".join(f"{name} {value}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
