"""What text a token adds: the bytes of tokens become characters as soon as they are whole."""

import codecs


class Detokenizer:
    """Turns the bytes of one generation's tokens into text.

    A token that leaves a UTF-8 character unfinished adds no text; the token that finishes it adds the character. Bytes
    that can never become one add U+FFFD.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text: list[str] = []

    def push(self, piece: bytes, *, special: bool = False) -> str:
        """The text a token adds to what was there.

        Args:
            piece: the token's bytes.
            special: a control token; its text is told, but is no part of the generated text.
        """
        if special:
            return piece.decode("utf-8", errors="replace")
        text = self._decoder.decode(piece)
        self._text.append(text)
        return text

    def finish(self) -> str:
        """The generated text; a character left unfinished becomes U+FFFD."""
        self._text.append(self._decoder.decode(b"", final=True))
        return "".join(self._text)
