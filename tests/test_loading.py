from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from vidrestore.loading import without_collecting


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_rests_and_goes_on_as_it_was(was_on: bool) -> None:
    if not was_on:
        gc.disable()
    try:
        with without_collecting():
            assert not gc.isenabled()
        assert gc.isenabled() == was_on
    finally:
        gc.enable()


def test_the_collector_goes_on_after_an_import_that_fails() -> None:
    with pytest.raises(ImportError), without_collecting():
        raise ImportError("not there")
    assert gc.isenabled()


def test_only_a_process_of_our_own_keeps_what_is_there() -> None:
    program = (
        "import gc, vidrestore.loading as l\n"
        "with l.without_collecting(): pass\n"
        "before = gc.get_freeze_count()\n"
        "with l.without_collecting(keeps=True): pass\n"
        "print(before, gc.get_freeze_count() > 1000)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True"]
