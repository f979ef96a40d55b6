"""The tests; tests/support has what they import."""

import pytest

pytest.register_assert_rewrite("tests.support")
