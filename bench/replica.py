"""What a replica costs and brings, and what HAProxy adds: `python -m bench.replica`, beside the stack of docs/scale-out.md.

It takes minutes, scales the service to one replica and back, and prints tables of Markdown. wrk runs in HAProxy's network,
so a request crosses the overlay network once if a replica is asked directly, and as often again through HAProxy.
"""

import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from datetime import datetime

from bench.generators import Burst, parse_wrk, wrk
from bench.stats import ratios, shown

STACK, CLIENT_IMAGE = "granian-json", "granian-json-benchmark"
SERVICE, BALANCER = f"{STACK}_service", f"{STACK}_haproxy"
ROUNDS, STARTS = 6, 4
SHAPES = ((64, 5), (1, 3))  # connections, seconds
URLS = {
    "plaintext": ("http://tasks.service:8080", "http://127.0.0.1:8080"),
    "TLS": ("https://tasks.service:8081", "https://127.0.0.1:8081"),
}
"""A replica itself, and HAProxy."""
CPU_TIME = (
    "cat /sys/fs/cgroup/cpuacct/cpuacct.usage 2>&- || awk '/usage_usec/ {print $2 * 1000}' /sys/fs/cgroup/cpu.stat"
)
FIRST_RESPONSE = """
import sys, time, urllib.request
while True:
    try:
        urllib.request.urlopen(f"http://{sys.argv[1]}:8080/json/1", timeout=1).read()
        break
    except OSError:
        time.sleep(0.01)
print(time.time())
"""


def docker(*arguments: str) -> str:
    """Run a docker command and return its output; raises subprocess.CalledProcessError."""
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=True, timeout=120
    ).stdout.strip()


def containers(service: str) -> list[str]:
    """Return the healthy containers of a service, the newest first; HAProxy has no health check."""
    label = ("--filter", f"label=com.docker.swarm.service.name={service}")
    return docker("ps", "-q", *label, *(("--filter", "health=healthy") if service == SERVICE else ())).split()


def scale(replicas: int) -> None:
    """Have so many replicas; return when they are healthy, and the others have ended."""
    docker("service", "scale", "--detach", f"{SERVICE}={replicas}")
    while len(containers(SERVICE)) != replicas:
        time.sleep(0.1)
    time.sleep(3)  # for HAProxy, which says so nowhere that this could ask


def burst(client: str, url: str, shape: tuple[int, int], *measured: str) -> tuple[Burst, list[float]]:
    """Load a URL; return what wrk saw, and the microseconds of CPU time that a request took of each container."""
    connections, seconds = shape
    before = [int(docker("exec", each, "sh", "-c", CPU_TIME)) for each in measured]
    result = parse_wrk(docker("exec", client, *wrk(url, connections, seconds)))
    after = [int(docker("exec", each, "sh", "-c", CPU_TIME)) for each in measured]
    requests = result.rps * seconds
    return result, [(b - a) / 1e3 / requests for a, b in zip(before, after, strict=True)]


def span(figures: list[float], digits: int = 0) -> str:
    """Write the median of some figures, the least and the greatest."""
    middle, least, most = statistics.median(figures), min(figures), max(figures)
    return f"{middle:,.{digits}f} ({least:,.{digits}f} to {most:,.{digits}f})"


def measure_rates(client: str, balancer: str) -> None:
    """Ask one replica directly and through HAProxy in turn, and print the table."""
    (replica,) = containers(SERVICE)
    results: dict[tuple[str, int, int], list[tuple[Burst, list[float]]]] = defaultdict(list)
    for number in range(ROUNDS):
        for protocol, urls in URLS.items():
            for shape in SHAPES:
                for through in (0, 1) if number % 2 else (1, 0):
                    taken = burst(client, urls[through], shape, replica, balancer)
                    results[protocol, shape[0], through].append(taken)
    print("| what | directly | through HAProxy | ratio of the rates |\n|---|---|---|---|")
    for protocol in URLS:
        for connections, _ in SHAPES:
            pair = [results[protocol, connections, through] for through in (0, 1)]
            name = f"{protocol}, {connections} connection{'s' if connections > 1 else ''}"
            rates = [[each.rps for each, _ in some] for some in pair]
            print(
                f"| {name}: requests a second | {span(rates[0])} | {span(rates[1])} | {shown(ratios(rates[1], rates[0]))} |"
            )
            medians = [span([each.p50 for each, _ in some], 2) for some in pair]
            print(f"| {name}: median, ms | {medians[0]} | {medians[1]} | |")
            costs = [[span([cpu[which] for _, cpu in some]) for some in pair] for which in (0, 1)]
            print(f"| {name}: CPU us a request, replica | {costs[0][0]} | {costs[0][1]} | |")
            print(f"| {name}: CPU us a request, HAProxy | - | {costs[1][1]} | |")


def memory(*names: str) -> str:
    """Write the memory of containers as `docker stats` has it, without the page cache."""
    return ", ".join(docker("stats", "--no-stream", "--format", "{{.MemUsage}}", each).split(" /")[0] for each in names)


def measure_starts(client: str) -> None:
    """Start a replica beside the first, some times over; print when it responds and when it is healthy."""
    responses, healthy = [], []
    for _ in range(STARTS):
        old = set(containers(SERVICE))
        docker("service", "scale", "--detach", f"{SERVICE}=2")
        label = ("--filter", f"label=com.docker.swarm.service.name={SERVICE}")
        while not (new := set(docker("ps", "-q", *label).split()) - old):
            time.sleep(0.02)
        (container,) = new
        state = json.loads(docker("inspect", container))[0]
        begin = datetime.fromisoformat(state["State"]["StartedAt"][:26] + "+00:00").timestamp()
        address = state["NetworkSettings"]["Networks"][f"{STACK}_replicas"]["IPAddress"]
        responses.append(float(docker("exec", client, "python", "-c", FIRST_RESPONSE, address)) - begin)
        while container not in containers(SERVICE):
            time.sleep(0.02)
        healthy.append(time.time() - begin)
        scale(1)
    print(
        f"\nSeconds from a container's start to its first response: {span(responses, 2)}; healthy: {span(healthy, 2)}"
    )


def main() -> int:
    """Measure the stack that runs, and leave it with the replicas that it had."""
    had = int(json.loads(docker("service", "inspect", SERVICE))[0]["Spec"]["Mode"]["Replicated"]["Replicas"])
    (balancer,) = containers(BALANCER)
    client = docker("run", "-d", "--network", f"container:{balancer}", "--entrypoint", "sleep", CLIENT_IMAGE, "3600")
    try:
        scale(2)  # so that the one that is measured has not been loaded
        scale(1)
        print(f"Memory before, of a replica and of HAProxy: {memory(*containers(SERVICE), balancer)}\n")
        measure_rates(client, balancer)
        print(f"\nMemory after: {memory(*containers(SERVICE), balancer)}")
        measure_starts(client)
    except subprocess.CalledProcessError as error:
        print(f"failed: {error.cmd}: {error.stderr}", file=sys.stderr)
        return 1
    finally:
        with suppress(subprocess.CalledProcessError):
            docker("rm", "-f", client)
        docker("service", "scale", "--detach", f"{SERVICE}={had}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
