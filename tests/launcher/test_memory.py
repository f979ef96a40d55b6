"""What workers may grow by in a control group, read from files like the kernel's."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.launcher.memory import growth_limit
from app.settings import config


@pytest.mark.parametrize(
    ("text", "growth"), [("max\n", 512), (f"{2**63 - 4096}\n", 512), (f"{512 * 2**20}\n", 96), (f"{2**26}\n", 16)]
)
def test_workers_share_the_memory_of_their_control_group(tmp_path: Path, text: str, growth: int) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text(text)
    configuration = config.read(config.path_of(None, {}), {"WORKERS": "2", "SELF_SIGNED": "1"})
    configuration = replace(configuration, listeners=configuration.listeners[:2])
    allowed, line = growth_limit(configuration, (tmp_path / "absent", limit))
    assert allowed == growth
    assert (line is None) == (growth == 512)
    assert growth_limit(configuration, (tmp_path / "absent",)) == (512, None)
