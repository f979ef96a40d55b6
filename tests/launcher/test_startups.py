"""Which workers serve, as their server process and the launcher share it."""

import os

from app.launcher.startups import ACCEPTS, Startups


def test_a_worker_serves_from_when_it_accepts_until_its_end() -> None:
    startups = Startups(2)
    startups.note(1)
    assert startups.serving() == []
    assert not startups.accepts(1, os.getpid())
    startups.note_service(1)
    assert startups.serving() == [1]
    assert startups.accepts(1, os.getpid())
    assert startups.size(1) > 0
    startups.note_end(1, os.getpid())
    assert startups.serving() == []
    assert startups.size(1) > 0  # whether it had started is asked after its end


def test_a_worker_that_gets_the_number_of_the_one_before_serves() -> None:
    startups = Startups(1)
    startups.note_service(0)
    startups.note_end(0, os.getpid())
    startups.begin(0, accepts=False)
    startups.note_service(0)
    assert startups.serving() == [0]


def test_a_worker_that_is_replaced_for_its_size_serves_meanwhile() -> None:
    startups = Startups(1)
    startups.note(0)
    startups.note_service(0)
    size = startups.size(0)
    assert startups.begin(0, accepts=True) == size
    assert startups.size(0) == 0
    assert startups.serving() == [0]
    startups._set(0, ACCEPTS, os.getpid() + 1)  # noqa: SLF001 - as the other does when it accepts
    startups.restore(0, size, os.getpid())
    startups.note_end(0, os.getpid() + 1)
    assert startups.size(0) == size
    assert startups.serving() == [0]
