from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from dljobs.workers.channel import MAX_LINE_BYTES, Control, EventWriter, read_control, read_events, write_control


def test_events_come_back_in_order_with_their_offset(tmp_path: Path) -> None:
    path = tmp_path / "rank-0.jsonl"
    writer = EventWriter(path)
    writer.write("started", rank=0, pid=1)
    events, offset = read_events(path)
    writer.write("stage", text="loading ü")
    writer.close()
    later, end = read_events(path, offset)
    assert [event["type"] for event in events] == ["started"]
    assert [event["text"] for event in later] == ["loading ü"]
    assert end == path.stat().st_size
    assert read_events(path, end) == ([], end)


def test_a_missing_file_has_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "none.jsonl", 7) == ([], 7)


def test_a_line_in_work_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b'{"type":"a","at":1}\n{"type":"b","a')
    events, offset = read_events(path)
    assert [event["type"] for event in events] == ["a"]
    with path.open("ab") as file:
        file.write(b't":2}\n')
    assert [event["type"] for event in read_events(path, offset)[0]] == ["b"]


@pytest.mark.parametrize(
    "junk", [b"no json", b"[1]", b'{"at":1}', b'{"type":1,"at":1}', b'{"type":"x"}', b"\xff\xfe", b"[" * 5000]
)
def test_what_is_no_event_is_passed_over(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "events"
    path.write_bytes(junk + b'\n{"type":"a","at":1}\n')
    events, offset = read_events(path)
    assert [event["type"] for event in events] == ["a"]
    assert offset == path.stat().st_size


def test_an_endless_line_does_not_stop_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"x" * (3 * MAX_LINE_BYTES) + b'\n{"type":"a","at":1}\n')
    seen, offset = [], 0
    for _ in range(10):
        events, offset = read_events(path, offset, max_bytes=MAX_LINE_BYTES)
        seen += events
    assert [event["type"] for event in seen] == ["a"]


def test_urgent_events_ring_where_somebody_listens(tmp_path: Path) -> None:
    bell = tmp_path / "bell"
    os.mkfifo(bell)
    deaf = EventWriter(tmp_path / "events", bell)
    deaf.write("first_step")
    deaf.close()
    ear = os.open(bell, os.O_RDONLY | os.O_NONBLOCK)
    try:
        writer = EventWriter(tmp_path / "events", bell)
        writer.write("progress")
        with pytest.raises(BlockingIOError):
            os.read(ear, 10)
        writer.write("first_step")
        writer.ring()
        assert len(os.read(ear, 10)) == 2
        writer.close()
    finally:
        os.close(ear)


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path / "events")
    writer.write("metrics", values={"loss": float("nan"), "all": [float("inf"), 1.5]})
    writer.close()
    line = (tmp_path / "events").read_text()
    assert json.loads(line, parse_constant=pytest.fail)["values"] == {"loss": None, "all": [None, 1.5]}


def test_with_no_room_events_wait_and_lines_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = EventWriter(tmp_path / "events")
    write, room = os.write, [10]

    def write_little(descriptor: int, content: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, bytes(content[: room[0]]))
        room[0] -= written
        return written

    monkeypatch.setattr(os, "write", write_little)
    writer.write("first")
    writer.write("second")
    assert read_events(tmp_path / "events")[0] == []
    room[0] = 1 << 20
    writer.write("third")
    monkeypatch.undo()
    assert [event["type"] for event in read_events(tmp_path / "events")[0]] == ["first", "second", "third"]


def test_requests(tmp_path: Path) -> None:
    path = tmp_path / "control.json"
    assert read_control(path) == Control()
    write_control(path, Control(stop="drain", checkpoint=12.5))
    assert read_control(path) == Control("drain", 12.5)
    for broken in ("", "{", "[]", '{"stop": "", "checkpoint": []}', '{"checkpoint": "soon"}'):
        path.write_text(broken)
        assert read_control(path) == Control()
