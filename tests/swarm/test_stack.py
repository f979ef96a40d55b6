"""Replicas behind HAProxy in Docker Swarm: balanced, updated, renewed, scaled and broken, while clients verify bodies."""

import ssl
import time

import httpx
import pytest
import trustme

from bench import oracle
from bench.campaign import lost
from bench.proc import descendants
from bench.verified_client import Tally
from tests.support.certificates import issue, leaf_of
from tests.support.container import docker
from tests.support.processes import freeze, wait_until
from tests.support.swarm import REPLICAS, SERVICE, Stack, containers, loaded

pytestmark = pytest.mark.swarm


def failed(tallies: dict[str, Tally], protocol: str = "") -> dict[str, int]:
    return {name: lost(each) for name, each in tallies.items() if name.startswith(protocol) and lost(each)}


def test_every_replica_gets_traffic_on_both_ports(stack: Stack) -> None:
    before = {backend: stack.servers(backend) for backend in ("plaintext", "tls")}
    with loaded(stack) as loads:
        time.sleep(2)  # nothing to wait for: so long is the load
        tallies = loads.end()
    assert not failed(tallies)
    for backend, counts in before.items():
        served = {name: number - counts[name] for name, number in stack.servers(backend).items()}
        print(f"{backend}: {served}")
        assert len(served) == 3
        assert min(served.values()) > sum(served.values()) / 10  # a busy one gets fewer: leastconn


def test_the_published_ports_serve_it(stack: Stack, trust: ssl.SSLContext) -> None:
    for scheme, port in (("http", "PORT"), ("https", "TLS_PORT")):
        url = f"{scheme}://localhost:{stack.variables[port]}/json/7?m=2"
        assert httpx.get(url, verify=trust, trust_env=False).content == oracle.body(7, 2)


def test_an_update_to_another_image_fails_no_request(stack: Stack, image: str, next_image: str) -> None:
    old = set(containers(SERVICE))
    with loaded(stack) as loads:
        stack.deploy(IMAGE=next_image)
        fewest = stack.updated()
        tallies = loads.end()
    assert not failed(tallies)
    assert fewest == REPLICAS
    # Clients that keep their connections over TLS are the replica's own. Without a notice one fails now and then.
    closed = tallies["TLS, kept"]
    assert closed.noticed > closed.idle / 2 >= 12 / 2
    assert not old & set(containers(SERVICE))
    assert all(docker("inspect", "-f", "{{.Config.Image}}", each).strip() == next_image for each in containers(SERVICE))
    assert image != next_image


def test_an_update_that_does_not_start_is_rolled_back(stack: Stack) -> None:
    old = set(containers(SERVICE))
    with loaded(stack) as loads:
        stack.deploy(WORKERS="none")  # exit status 2
        fewest = stack.updated("rollback_completed")
        tallies = loads.end()
    del stack.variables["WORKERS"]
    assert not failed(tallies)
    assert fewest == REPLICAS
    assert set(containers(SERVICE)) == old


def test_a_new_pair_is_served_after_a_rolling_update(
    stack: Stack, authority: trustme.CA, trust: ssl.SSLContext
) -> None:
    folder = issue(authority, stack.folder / "certs-2")
    assert stack.served_leaf(trust) != leaf_of(folder)
    with loaded(stack) as loads:
        stack.deploy(PAIR="2", CERTS=str(folder))
        stack.updated()
        tallies = loads.end()
    assert not failed(tallies)
    assert {stack.served_leaf(trust) for _ in range(9)} == {leaf_of(folder)}  # of each replica: HAProxy takes turns


def test_a_killed_replica_costs_only_what_it_had_over_tls(stack: Stack) -> None:
    (victim, *_) = containers(SERVICE)
    with loaded(stack) as loads:
        docker("kill", "--signal", "KILL", victim)
        wait_until(lambda: victim not in containers(SERVICE), "its end")
        stack.settled(3)
        tallies = loads.end()
    assert not failed(tallies, "plaintext")  # HAProxy sends them to another replica
    assert sum(failed(tallies, "TLS").values()) < 32  # of its connections: HAProxy cannot know what is in them


def test_a_stopped_replica_is_replaced(stack: Stack) -> None:
    (victim, *_) = containers(SERVICE)
    launcher = int(docker("inspect", "-f", "{{.State.Pid}}", victim))
    begin = time.monotonic()
    with loaded(stack) as loads:
        freeze(launcher, *descendants(launcher))  # not the health check, which ends by itself
        wait_until(lambda: "unhealthy" in docker("inspect", "-f", "{{.State.Health.Status}}", victim), "unhealthy", 60)
        print(f"unhealthy after {time.monotonic() - begin:.1f} s")
        wait_until(lambda: victim not in containers(SERVICE), "its end", 60)
        print(f"ended after {time.monotonic() - begin:.1f} s")
        stack.settled(3)
        tallies = loads.end()
    assert not failed(tallies, "plaintext")
    assert sum(failed(tallies, "TLS").values()) < 32


def test_replicas_come_and_go_without_a_failed_request(stack: Stack) -> None:
    fast: dict[str, Tally] = {}
    with loaded(stack) as loads:
        for replicas in (1, 2, 3, 4):
            stack.scale(replicas)
            stack.settled(replicas)
            with stack.load(tls=True, connections=8, requests=1000, pause=0) as load:
                wait_until(lambda load=load: load.tally().responded > 0, "a response")  # type: ignore[misc]
                begin, before = time.monotonic(), load.tally().responded
                time.sleep(2)  # the time that the rate is taken over
                rate = (load.tally().responded - before) / (time.monotonic() - begin)
                print(f"{replicas} replicas: {rate:.0f} responses a second to 8 clients over TLS")
                fast[f"TLS, without a pause, {replicas}"] = load.end()
        stack.scale(1)
        stack.settled(1)
        tallies = loads.end() | fast
    assert not failed(tallies)
