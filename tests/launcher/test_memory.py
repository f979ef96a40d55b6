"""What workers may grow by in a control group, read from files like the kernel's."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.launcher.memory import growth_limit, limits
from app.settings import config


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the kernel's files, of a process in the groups /a/b (version 2) and /c (version 1)."""
    for folder in ("proc/self", "sys/fs/cgroup/a/b", "sys/fs/cgroup/memory/c"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/c\n3:cpu,cpuacct:/d\n0::/a/b\n")
    return tmp_path


WHERE = [
    "memory.max",
    "a/memory.max",
    "a/b/memory.max",
    "memory/memory.limit_in_bytes",
    "memory/c/memory.limit_in_bytes",
]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(
    ("text", "growth"), [("max\n", 512), (f"{2**63 - 4096}\n", 512), (f"{512 * 2**20}\n", 96), (f"{2**26}\n", 16)]
)
def test_workers_share_the_memory_of_their_control_group(root: Path, where: str, text: str, growth: int) -> None:
    configuration = config.read(config.path_of(None, {}), {"WORKERS": "2", "SELF_SIGNED": "1"})
    configuration = replace(configuration, listeners=configuration.listeners[:2])
    assert growth_limit(configuration, root) == (512, None)
    (root / "sys/fs/cgroup" / where).write_text(text)
    allowed, line = growth_limit(configuration, root)
    assert allowed == growth
    assert (line is None) == (growth == 512)
    if line:
        assert f"{where} = {int(text) // 2**20} MiB" in line


@pytest.mark.parametrize("groups", ["0::/../beside\n", "0::/not/seen/here\n"])
def test_a_container_sees_its_own_group_as_the_root(root: Path, groups: str) -> None:
    (root / "proc/self/cgroup").write_text(groups)
    (root / "sys/fs/cgroup/memory.max").write_text("1000\n")
    assert [limit for limit, _ in limits(root)] == [1000]


def test_the_least_limit_counts(root: Path) -> None:
    for number, where in enumerate(WHERE):
        (root / "sys/fs/cgroup" / where).write_text(str(1000 + (number - 2) ** 2))
    assert min(limits(root)) == (1000, root / "sys/fs/cgroup" / WHERE[2])


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert list(limits(tmp_path)) == []


def test_names_of_groups_may_be_anything(root: Path) -> None:
    (root / "proc/self/cgroup").write_bytes(b"5:cpu,memory:/c\n0::/a..b/\xff\n")
    (root / "sys/fs/cgroup/a..b").mkdir()
    (root / "sys/fs/cgroup/a..b/memory.max").write_text("1000\n")
    (root / "sys/fs/cgroup/cpu,memory/c").mkdir(parents=True)
    (root / "sys/fs/cgroup/cpu,memory/c/memory.limit_in_bytes").write_text("900\n")
    assert sorted(limit for limit, _ in limits(root)) == [900, 1000]
