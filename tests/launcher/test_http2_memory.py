"""HTTP/2 clients that grant no window: the worker that holds their responses is replaced, and nothing else ends."""

import ssl
import time
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from bench import oracle
from tests.support.configuration import SERVER_TOML, configured
from tests.support.http1 import get_on_new_connection
from tests.support.http2 import Client
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.support.service import Launch

pytestmark = pytest.mark.xdist_group("load")  # one at a time: each loads the machine


def test_a_worker_that_has_grown_is_replaced_and_the_service_lives(
    launch: Launch, pair: dict[str, str], trust: ssl.SSLContext, tmp_path: Path
) -> None:
    text = SERVER_TOML.replace("worker_growth = 512", "worker_growth = 64")
    assert text != SERVER_TOML
    service = launch(configured(tmp_path, text), H2C_PORT=str(free_port()), WORKERS="1", **pair).ready()
    tls, h2c, plain = service.server_processes
    (worker,) = service.workers(h2c)
    others = [service.workers(each) for each in (tls, plain)]
    with ExitStack() as stack, httpx.Client(base_url=service.url, trust_env=False) as kept:
        assert kept.get("/json/3?m=2").content == oracle.body(3, 2)
        end = time.monotonic() + 40
        while service.workers(h2c) == [worker]:
            assert time.monotonic() < end, "not replaced"
            client = stack.enter_context(closing(Client(service.h2c_port, window=0)))
            for _ in range(100):
                client.request("/json/50?m=2")
        wait_until(lambda: worker not in service.workers(h2c), "the end of the worker that has grown", 20)
        service.remember()
        assert kept.get("/json/3?m=2").content == oracle.body(3, 2)
    with httpx.Client(base_url=service.h2c_url, http1=False, http2=True, trust_env=False, timeout=20) as multiplexed:
        assert multiplexed.get("/json/3?m=2").content == oracle.body(3, 2)
    assert get_on_new_connection(service, trust, 10) == get_on_new_connection(service, None, 10) == oracle.body(3, 2)
    assert [service.workers(each) for each in (tls, plain)] == others
    service.stop()
