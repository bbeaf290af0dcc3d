"""Limits the requests a minute to a provider, and decides which is sent first.

A sliding window, not a bucket that refills: after a full burst, a bucket lets nearly twice the limit through within one
minute, and the provider counts.
"""

import heapq
import itertools
import threading
import weakref
from collections import deque
from datetime import datetime, timedelta

from rotator.core.errors import ProviderUnavailable
from rotator.core.ports import Clock

WINDOW = 61.0
"""Seconds: a little over the provider's minute, because requests travel at different speeds."""

SWEEP_SHARE = 5
"""A sweep uses at most a fifth of a provider's budget."""

REQUESTS_PER_ROTATION = 3
"""One creates the key; of the superseded key, one shortens it (or looks it up, where no expiry can be set) and one
deletes it."""

NAP = 0.5
"""Seconds: how soon a waiting caller notices `close`."""


class SlidingWindow:
    """A `ports.Budget` that is shared by all threads of this process that talk to one provider."""

    def __init__(self, requests_per_minute: int, clock: Clock, whole: "SlidingWindow | None" = None) -> None:
        """With `whole` this is a part of it: both must release each request."""
        self.limit = requests_per_minute
        self._whole = whole
        self._parts: weakref.WeakSet[SlidingWindow] = weakref.WeakSet()  # a reload makes new ones
        if whole is not None:
            whole._parts.add(self)
        self._clock = clock
        self._lock = threading.Lock()
        self._sent: deque[float] = deque()
        self._waiting: list[tuple[datetime, int]] = []
        self._tickets = itertools.count()
        self._paused_until = float("-inf")
        self._closing = False

    def take(self, deadline: datetime) -> None:
        """Wait for the right to send one request. Waiters are released in deadline order.

        After `close`, raises `ProviderUnavailable` instead of waiting: nothing was sent.
        """
        self._take(deadline)
        if self._whole:
            self._whole.take(deadline)

    def _take(self, deadline: datetime) -> None:
        ticket = (deadline, next(self._tickets))
        with self._lock:
            heapq.heappush(self._waiting, ticket)
        while True:
            with self._lock:
                now = self._clock.monotonic()
                delay = self._delay(now)
                if delay <= 0 and self._waiting[0] == ticket:
                    heapq.heappop(self._waiting)
                    self._sent.append(now)
                    return
                if self.closing:
                    self._waiting.remove(ticket)
                    heapq.heapify(self._waiting)
                    raise ProviderUnavailable("rotator is stopping; the request was not sent")
            # All others wait as long: none can be released before, and the order may change until then.
            self._clock.sleep(min(max(delay, 0.01), NAP))

    def pause(self, seconds: float) -> None:
        """Release no request for that long: the provider limits the rate."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock.monotonic() + seconds)

    def close(self) -> None:
        """Refuse from now on every request that cannot be sent at once."""
        with self._lock:
            self._closing = True

    @property
    def closing(self) -> bool:
        """Whether `close` was called, here or on the whole."""
        return self._closing or (self._whole is not None and self._whole.closing)

    @property
    def pace(self) -> timedelta:
        """How far apart rotations must be."""
        return timedelta(seconds=REQUESTS_PER_ROTATION * WINDOW / self.limit)

    def used(self) -> float:
        """Return the share of the limit that the last minute used."""
        with self._lock:
            self._delay(self._clock.monotonic())
            return len(self._sent) / self.limit

    def awaited(self) -> bool:
        """Return whether a caller must wait for the right to send a request, of this or of a part of it."""
        with self._lock:
            awaited = bool(self._waiting) and self._delay(self._clock.monotonic()) > 0
        return awaited or any(part.awaited() for part in self._parts)

    def paused(self) -> float:
        """Return the seconds for which no request is sent, because the provider limited the rate."""
        with self._lock:
            return max(self._paused_until - self._clock.monotonic(), 0.0)

    def has_queue(self) -> bool:
        """Return whether any caller waits to send a request, of this or of a part, even for a moment."""
        with self._lock:
            queued = bool(self._waiting)
        return queued or any(part.has_queue() for part in self._parts)

    def _delay(self, now: float) -> float:
        while self._sent and self._sent[0] <= now - WINDOW:
            self._sent.popleft()
        full = len(self._sent) >= self.limit
        opens = self._sent[len(self._sent) - self.limit] + WINDOW if full else now
        return max(opens, self._paused_until) - now
