"""What the page of a run cannot say of itself: that its job was killed. Who shows the page adds it."""

from datetime import UTC, datetime, timedelta

PLACE = "<!-- silence -->"
"""Stands in the page of a run that went on when the page was written."""


def say_silence(page: bytes, last_beat_s: float | None, now_s: float) -> bytes:
    """The page with a message that no sign of life comes of its job; a page of a run that has ended as it is.

    Args:
        last_beat_s, now_s: seconds since 1970; None where there is no lock, so that nobody can tell.
    """
    since = ""
    if last_beat_s is not None:
        moment = f"{datetime.fromtimestamp(last_beat_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
        since = f" since {moment}, for {_in_words(now_s - last_beat_s)} by this machine's clock"
    message = (
        f'<div class="card status bad"><p><strong>No sign of life</strong>{since}. The job that trained this run was '
        "killed, or its machine is gone or cannot reach the store; what stands below is older. Start the same job "
        "again, and it goes on from its newest checkpoint.</p></div>"
    )
    return page.replace(PLACE.encode(), message.encode(), 1)


def _in_words(seconds: float) -> str:
    span = timedelta(seconds=max(0.0, seconds))
    if span.days:
        return f"{span.days} days and {span.seconds // 3600} hours"
    minutes = span.seconds // 60
    return f"{minutes // 60} hours and {minutes % 60} minutes" if minutes >= 60 else f"{minutes} minutes"
