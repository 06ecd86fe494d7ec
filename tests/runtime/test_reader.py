import threading
import time

import pytest

from runtime.videos import FakeSource, number_in
from slimfer.errors import InputError
from slimfer.runtime.reader import Reader


def reading(source: FakeSource, **settings) -> Reader:
    return Reader(lambda: source, name="it", **{"timeout": 5.0, **settings})


def test_a_file_gives_every_frame_once_in_order_however_slow_the_reader():
    source = FakeSource([n / 25 for n in range(30)])
    with reading(source) as video:
        got = []
        for frame in video:
            got.append((frame.number, frame.seconds, number_in(frame.picture)))
            time.sleep(0.001)
            assert video.read - len(got) <= 3  # ahead by little: memory stays flat
    assert got == [(n, n / 25, n) for n in range(30)]
    assert (video.read, video.skipped, video.note) == (30, 0, None)
    assert source.closed


def test_a_stride_gives_every_nth_frame_and_the_others_are_not_made_into_pictures():
    source = FakeSource([n / 25 for n in range(10)])
    with reading(source, stride=3) as video:
        assert [frame.number for frame in video] == [0, 3, 6, 9]
    assert (video.read, video.skipped, source.unwanted) == (10, 0, 6)


def test_of_a_live_source_only_the_newest_frame_is_kept_and_the_others_are_counted():
    waits = {1: threading.Event(), 7: threading.Event()}  # the camera waits there, so that the test need not be fast
    source = FakeSource([None] * 9, live=True, act=lambda number: number in waits and waits[number].wait(5))
    with reading(source) as video:
        assert next(video).number == 0
        waits[1].set()
        while video.read < 7:
            time.sleep(0.001)
        assert next(video).number == 6
        assert video.skipped == 5
        waits[7].set()
        rest = [frame.number for frame in video]
    assert rest[-1] == 8
    assert video.skipped + 2 + len(rest) == video.read == 9
    assert video.note == "it sends no more frames"


def test_the_time_of_a_live_source_is_that_of_the_clock():
    with reading(FakeSource([None] * 3, live=True, act=lambda n: time.sleep(0.05 * (n > 0)))) as video:
        times = [frame.seconds for frame in video]
    assert times[0] == 0
    assert 0.05 <= times[-1] < 2
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([None, None, None], [0, 0.04, 0.08]),
        ([0.0, 0.0, 0.0], [0, 0.04, 0.08]),
        ([5.0, 5.1, 4.0, 6.0], [5, 5.1, 5.14, 6]),
    ],
    ids=["untold", "stuck", "back"],
)
def test_time_never_goes_back(told, expected):
    with reading(FakeSource(told)) as video:
        assert [frame.seconds for frame in video] == pytest.approx(expected)


def test_a_file_in_real_time_takes_as_long_as_the_video_and_skips_what_nobody_takes():
    begun = time.monotonic()
    with reading(FakeSource([n / 50 for n in range(21)]), real_time=True) as video:
        numbers = []
        for frame in video:
            numbers.append(frame.number)
            time.sleep(0.1)
    assert time.monotonic() - begun >= 0.4
    assert numbers[-1] == 20
    assert len(numbers) <= 7
    assert video.skipped == 21 - len(numbers)


def test_a_leap_of_the_videos_clock_is_not_waited_for():
    begun = time.monotonic()
    with reading(FakeSource([0.0, 0.01, 4000.0, 4000.01]), real_time=True) as video:
        assert [frame.number for frame in video][-1] == 3
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize("at", [0, 3])
def test_a_source_that_hangs_is_given_up(at):
    hang = threading.Event()
    source = FakeSource([0.0] * 9, act=lambda number: hang.wait(20) if number == at else None)
    video = reading(source, timeout=0.2)
    assert [next(video).number for _ in range(at)] == list(range(at))
    with pytest.raises(InputError, match=r"it has sent no frame for 0\.2 s"):
        next(video)
    hang.set()
    video.close()
    assert source.closed


def test_a_source_that_hangs_while_it_is_opened_is_given_up_and_closed_when_it_opens_after_all():
    hang, source = threading.Event(), FakeSource([0.0])

    def opened() -> FakeSource:
        hang.wait(20)
        return source

    with pytest.raises(InputError, match=r"it does not open within 0\.2 s"):
        Reader(opened, name="it", timeout=0.2)
    hang.set()
    until = time.monotonic() + 5
    while not source.closed and time.monotonic() < until:
        time.sleep(0.001)
    assert source.closed
    assert source.given == 0


def test_an_end_that_took_as_long_as_the_timeout_is_a_stall():
    """FFmpeg gives up by itself and says only that there is no frame."""
    source = FakeSource([None], live=True, act=lambda number: time.sleep(0.195 * number))
    with reading(source, timeout=0.2) as video, pytest.raises(InputError, match=r"sent no frame for 0\.2 s"):
        list(video)


def test_a_slow_reader_is_no_stall():
    with reading(FakeSource([n / 25 for n in range(8)]), timeout=0.1) as video:
        for _ in video:
            time.sleep(0.15)
    assert video.read == 8


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (InputError("no such thing"), "^no such thing$"),
        (RuntimeError("broken"), r"it cannot be read \(RuntimeError: broken\)"),
    ],
)
def test_whatever_opening_raises_is_one_sentence(error, says):
    def refuse():
        raise error

    with pytest.raises(InputError, match=says):
        Reader(refuse, name="it", timeout=5)


def test_what_goes_wrong_in_the_middle_comes_after_the_frames_before_it():
    def act(number: int) -> None:
        if number == 2:
            raise OSError("the disk is gone")

    source, got = FakeSource([0.0, 1.0, 2.0], act=act), []
    with reading(source) as video, pytest.raises(InputError, match="the disk is gone"):
        got.extend(frame.number for frame in video)
    assert source.closed
    assert video.read == 2


def test_no_frames_are_an_error_that_says_why():
    source = FakeSource([])
    source.note = "all is black"
    with reading(source) as video, pytest.raises(InputError, match="it has no frames: all is black"):
        list(video)


@pytest.mark.parametrize(
    ("came", "total", "noted"), [(90, 100, True), (99, 100, False), (3, 3, False), (50, None, False)]
)
def test_a_file_that_ends_early_says_so(came, total, noted):
    with reading(FakeSource([None] * came, total=total)) as video:
        assert len(list(video)) == came
    assert (video.note is not None) == noted
    if noted:
        assert video.note == "it ends after 90 of 100 frames; it is damaged or cut off"


def test_closing_early_ends_the_thread():
    source = FakeSource([n / 25 for n in range(1000)])
    with reading(source) as video:
        next(video)
    assert source.closed
    assert not video._thread.is_alive()
    assert list(video) == []
