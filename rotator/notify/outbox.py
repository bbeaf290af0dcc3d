"""A bounded queue of notifications for one channel, and the thread that sends them.

A notification that the channel does not take goes to the end of the queue, and the channel gets nothing for a while.
So a receiver that is down gets few requests. A further try that fails does not delay what is new, because the receiver
may refuse just that one.
"""

import threading
from collections import deque
from dataclasses import dataclass, replace

from rotator.core.errors import NotificationFailed, NotificationUnwanted, RotatorError
from rotator.core.events import Event, EventType, Fields, Level
from rotator.core.ports import Clock, Listener
from rotator.notify.notification import Notification, Sender
from rotator.runtime.threads import start
from rotator.telemetry.logging import unexpected
from rotator.telemetry.metrics import DROPPED, FAILURE, SUCCESS, Notifications

MOST = 1000
"""Notifications that wait. One more, and the oldest is dropped: the latest matters most to a consumer."""

FIRST_WAIT = 1.0
LONGEST_WAIT = 600.0
"""Seconds until the next try after a failure. The wait doubles with each failure in a row."""

GIVE_UP_AFTER = 86_400.0
"""Seconds after which a notification that nothing takes is dropped."""


_AT_ONCE = float("-inf")


@dataclass(frozen=True, slots=True)
class _Waiting:
    notification: Notification
    until: float  # monotonic; then it is dropped
    is_new: bool = True  # it was not tried yet


class Outbox:
    """The notifications of one channel. Any thread may call all methods, and none waits for the channel but `join`."""

    def __init__(self, channel: str, clock: Clock, counted: Notifications, emit: Listener) -> None:
        self._channel, self._clock, self._counted, self._emit = channel, clock, counted, emit
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._sender: Sender | None = None
        self._thread: threading.Thread | None = None
        self._wait, self._new_not_before, self._not_before = 0.0, _AT_ONCE, _AT_ONCE
        self._is_sending = self._is_unwanted = False
        self._reported: Level | None = None  # of the failures since the last success
        self._end_by: float | None = None

    def use(self, sender: Sender) -> None:
        """Send with this sender from now on, at once: what was wrong may be corrected."""
        with self._changed:
            self._sender, self._is_unwanted = sender, False
            self._wait, self._new_not_before, self._not_before = 0.0, _AT_ONCE, _AT_ONCE
            self._changed.notify_all()

    def put(self, notification: Notification) -> None:
        """Queue a notification, if the channel wants its type."""
        with self._changed:
            if self._sender is None or notification.type not in self._sender.types:
                return
            if self._is_unwanted or len(self._waiting) >= MOST:
                self._counted.count(self._channel, DROPPED)
            if self._is_unwanted:
                return
            if len(self._waiting) >= MOST:
                self._waiting.popleft()
            self._waiting.append(_Waiting(notification, self._clock.monotonic() + GIVE_UP_AFTER))
            self._changed.notify_all()
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        """Start the thread. Without one, the next notification tries again."""
        try:
            self._thread = start(threading.Thread(target=self._run, name=f"notify {self._channel}", daemon=True))
        except RotatorError as error:
            self._report(error)

    def end(self, by: float) -> None:
        """Send what is queued until this monotonic second. What waits for another try is left."""
        with self._changed:
            self._end_by = by
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for the end, and report the notifications that are left."""
        if self._thread is not None and self._end_by is not None:
            self._thread.join(max(0.0, self._end_by - self._clock.monotonic()))
        with self._changed:
            left = len(self._waiting) + self._is_sending
        if left:
            fields: Fields = {
                "channel": self._channel,
                "error": f"{left} notifications were not sent before the end of this channel",
                "advice": "The next leader sends again what it finds recent. `rotator events` lists the rest.",
                "waiting": left,
            }
            self._emit(Event(EventType.NOTIFICATIONS_FAILED, "", Level.WARNING, fields))

    # --- on its own thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while taken := self._take():
            waiting, sender = taken
            try:
                sender.send(waiting.notification)
            except Exception as error:
                self._failed(waiting, sender, error)
            else:
                self._worked()

    def _take(self) -> tuple[_Waiting, Sender] | None:
        """Return the next notification when it is due, and what sends it; None at the end."""
        with self._changed:
            while True:
                now = self._clock.monotonic()
                waiting = next((one for one in self._waiting if one.is_new), next(iter(self._waiting), None))
                due_at = self._new_not_before if waiting and waiting.is_new else self._not_before
                is_due = waiting is not None and now >= due_at
                if self._end_by is not None and (not is_due or now >= self._end_by):
                    return None
                if waiting and is_due and self._sender is not None:
                    self._is_sending = True
                    self._waiting.remove(waiting)
                    return waiting, self._sender
                self._changed.wait(due_at - now if waiting else None)

    def _worked(self) -> None:
        with self._changed:
            reported, self._reported, self._is_sending = self._reported, None, False
            self._wait, self._not_before, waiting = 0.0, _AT_ONCE, len(self._waiting)
        self._counted.count(self._channel, SUCCESS)
        if reported:
            fields: Fields = {"channel": self._channel, "waiting": waiting}
            self._emit(Event(EventType.NOTIFICATIONS_RECOVERED, fields=fields))

    def _failed(self, waiting: _Waiting, sender: Sender, error: Exception) -> None:
        """Queue the notification again, unless its day is over or the receiver wants no more."""
        with self._changed:
            self._is_sending = False
            is_current = sender is self._sender  # otherwise the next try is another sender's first
            now = self._clock.monotonic()
            self._is_unwanted = is_current and isinstance(error, NotificationUnwanted)
            again = replace(waiting, is_new=False)
            left = [one for one in (*self._waiting, again) if now < one.until and not self._is_unwanted]
            del left[MOST:]  # of more than that, it is the oldest
            dropped = len(self._waiting) + 1 - len(left)
            self._waiting = deque(left)
            if is_current:
                self._wait = min(LONGEST_WAIT, max(FIRST_WAIT, 2 * self._wait))
                self._not_before = now + self._wait
                if waiting.is_new:
                    self._new_not_before = self._not_before
        self._counted.count(self._channel, FAILURE)
        self._counted.count(self._channel, DROPPED, dropped)
        if is_current:
            self._report(error)

    def _report(self, error: Exception) -> None:
        """Report the first failure after a success, the first that only a person can help, and each 410."""
        level = Level.of(error) if isinstance(error, RotatorError) else Level.WARNING
        if self._reported in (level, Level.ERROR) and not isinstance(error, NotificationUnwanted):
            return
        self._reported = level
        if not isinstance(error, RotatorError):
            self._emit(unexpected(f"sending to {self._channel}", error))
            error = NotificationFailed(f"a fault in rotator: {type(error).__name__}", "Please report it.")
        fields: Fields = {
            "channel": self._channel,
            "error": error.message,
            "advice": error.advice,
            "waiting": len(self._waiting),
        }
        self._emit(Event(EventType.NOTIFICATIONS_FAILED, "", level, fields))
