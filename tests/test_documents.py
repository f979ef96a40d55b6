"""What documents say of the tests is true."""

import re

from tests.support.processes import ROOT


def test_the_faults_name_tests_that_there_are() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    named = set(re.findall(r"`([a-z]\w+_\w+_\w+_\w+)`", text.partition("## Faults")[2]))
    assert len(named) > 30
    written = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def test_(\w+)", path.read_text())
    }
    assert named <= written, named - written
