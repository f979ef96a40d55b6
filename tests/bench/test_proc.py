"""Processes as the kernel shows them."""

import os
import subprocess

from bench.proc import children, server_processes


def test_a_child_that_leads_no_session_is_no_server_process() -> None:
    with (
        subprocess.Popen(["sleep", "60"], start_new_session=True) as server,
        subprocess.Popen(["sleep", "60"]) as asking,
    ):
        try:
            assert {server.pid, asking.pid} <= set(children(os.getpid()))
            found = server_processes(os.getpid())
        finally:
            server.kill()
            asking.kill()
    assert server.pid in found
    assert asking.pid not in found
