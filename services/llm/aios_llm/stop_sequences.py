"""Where an answer ends because of a stop sequence: the sequence itself is not part of it, as in OpenAI's API.

TGI's text includes the sequence, and a stream may cut it anywhere, so text that could be its beginning is held back.
"""


class StopFilter:
    """Passes text on, up to the first stop sequence."""

    def __init__(self, sequences: tuple[str, ...]) -> None:
        self._sequences = sequences
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The part of all text so far that is now certain to belong to the answer and was not passed on before."""
        if not self._sequences:
            return text
        if self.stopped:
            return ""
        self._held += text
        # The one complete first wins, as if the text came letter by letter; of those, the one that began first.
        found = [(at + len(s), at) for s in self._sequences if (at := self._held.find(s)) >= 0]
        if found:
            self.stopped = True
            passed, self._held = self._held[: min(found)[1]], ""
            return passed
        keep = max(_overlap(self._held, sequence) for sequence in self._sequences)
        passed, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return passed

    def finish(self) -> str:
        """What was held back and turned out to be part of the answer."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, sequence: str) -> int:
    """Length of the longest end of `text` that begins `sequence`."""
    return next((n for n in range(min(len(text), len(sequence) - 1), 0, -1) if text.endswith(sequence[:n])), 0)
