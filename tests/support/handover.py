"""What a leader leaves to its successor, as a text that a test sets and reads."""


class Left:
    """A `leader.Handover`."""

    def __init__(self, text: str = "") -> None:
        self.now = text
        self.resumed: list[str] = []
        self.stored: list[str] = []
        self._last = ""

    def resume(self, text: str) -> None:
        self.resumed.append(text)

    def text(self) -> str:
        self._last = self.now
        return self._last

    def written(self) -> None:
        self.stored.append(self._last)
