"""Whether a job still gives signs of life, as one who looks at its lock sees it."""

import time

from sa2va_ray.train.checkpoints.beat import LOCK_FILE, BeatWatch


def test_a_beat_is_a_change_and_silence_is_measured_on_the_watchers_clock(tmp_path):
    now_s = [0.0]
    lock = tmp_path / LOCK_FILE
    lock.write_text('{"beat": 1}')
    watch = BeatWatch(str(tmp_path), clock=lambda: now_s[0])
    assert not watch.is_silent(), "who has just come cannot know"
    now_s[0] = 19.0
    lock.write_text('{"beat": 2}')
    assert not watch.is_silent()
    now_s[0] = 39.0
    assert not watch.is_silent()
    now_s[0] = 40.0
    assert watch.is_silent()
    assert abs(watch.last_beat_s() - time.time()) < 60
    lock.unlink()
    assert not watch.is_silent(), "somebody took it away"
    now_s[0] = 61.0
    assert watch.is_silent()
    assert watch.last_beat_s() is None
