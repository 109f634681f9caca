from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrestore.live.slot import LatestSlot


def test_the_newest_item_pushes_the_oldest_out() -> None:
    slot: LatestSlot[int] = LatestSlot()
    for item in range(5):
        slot.put(item)
    assert (slot.get(0), slot.get(0), slot.num_dropped) == (4, None, 4)


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4))
def test_order_is_kept_and_nothing_is_lost_unseen(steps: list[bool], size: int) -> None:
    slot: LatestSlot[int] = LatestSlot(size)
    put, got = 0, []
    for is_put in steps:
        if is_put:
            slot.put(put)
            put += 1
        else:
            item = slot.get(0)
            if item is not None:
                got.append(item)
    while (item := slot.get(0)) is not None:
        got.append(item)
    assert got == sorted(got)
    assert len(got) + slot.num_dropped == put


def test_closing_wakes_who_waits_and_gives_out_what_is_held() -> None:
    slot: LatestSlot[str] = LatestSlot()
    got: list[str | None] = ["unset"]
    thread = threading.Thread(target=lambda: got.__setitem__(0, slot.get()))
    thread.start()
    slot.close()
    thread.join(5)
    assert got == [None]
    held: LatestSlot[str] = LatestSlot()
    held.put("last")
    held.close()
    held.put("too late")
    assert (held.get(), held.get()) == ("last", None)


def test_a_slot_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        LatestSlot(0)
