"""The benchmark: what a request costs in this service, and in the servers that one could choose instead."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The repository."""
