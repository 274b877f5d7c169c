"""Which part of a delta is new: the text of a streamed answer, without gap and without repeat."""


class Transcript:
    """The answer so far, as pieces whose concatenation is the text from `start` on. Positions are code points."""

    __slots__ = ("_start", "length", "pieces")

    def __init__(self, start: int = 0) -> None:
        self._start = start
        self.length = start
        self.pieces: list[str] = []

    @property
    def text(self) -> str:
        """All pieces in one."""
        return "".join(self.pieces)

    def add(self, text_offset: int, text: str) -> bool:
        """Takes what is new of a piece that starts at `text_offset`.

        Returns:
            False where text is missing between what is here and this piece; nothing is taken then.
        """
        known = self.length - text_offset
        if known < 0:
            return False
        new = text[known:] if known else text
        if new:
            self.pieces.append(new)
            self.length += len(new)
        return True

    def complete(self, whole: str) -> None:
        """Adds what is missing of the whole answer, where the pieces are a beginning of it."""
        if len(whole) > self.length and whole[self._start : self.length] == self.text:
            self.add(self.length, whole[self.length :])
