"""Which log probabilities of a frame are new: those of a streamed answer, without gap and without repeat."""

from collections.abc import Sequence

from aios_proto.messages.llm import TokenLogprob


class Logprobs:
    """Those that have come so far, one for each token of the answer."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: list[TokenLogprob] = []

    def add(self, offset: object, told: object) -> bool:
        """Takes what is new of a frame that tells of the tokens from `offset` on.

        Returns:
            False where some are missing between what is here and these; nothing is taken then.

        Raises:
            TypeError, ValueError: they are none.
        """
        if not isinstance(offset, int) or not isinstance(told, list):
            raise TypeError("no log probabilities")
        known = len(self.entries) - offset
        if known < 0:
            return False
        self.entries += [TokenLogprob.model_validate(entry) for entry in told[known:]]
        return True

    def complete(self, whole: Sequence[TokenLogprob]) -> None:
        """Adds what is missing of the whole answer's, where those here are a beginning of them."""
        have = len(self.entries)
        if list(whole[:have]) == self.entries:
            self.entries += whole[have:]
