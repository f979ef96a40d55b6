"""Loads of a running service, by client processes that verify every body (bench/verified_client.py)."""

from collections.abc import Callable

from bench.verified_load import Load

Loads = Callable[..., Load]
