"""KV between the engine thread and the wire: what needs no more than bytes, and so is done in any other thread."""

import logging
from collections.abc import Mapping

from aios_engine.backend import KvGiven
from aios_engine.core.kv_image import Form, KvImage, attached, decode, digest, encode
from aios_engine.core.kv_shelf import ShelvedKv
from aios_engine.held_kv import Reading
from aios_engine.llama.kv_state import KvForm

_log = logging.getLogger(__name__)


class KvTransfer:
    """Makes images of what was read from a context, and of images what can be put into it."""

    def __init__(self, form: KvForm | None, fingerprint: str) -> None:
        """Knows whose KV it is.

        Args:
            form: of the context's states; None where it is not known, and then a state travels as it is.
            fingerprint: of the model.
        """
        self._form = form
        self._fingerprint = fingerprint

    def given(self, reading: Reading) -> KvGiven:
        """The image of what was read."""
        first, end, data = reading.first, reading.end, reading.data
        if self._form is not None and reading.whole:
            data = self._form.rows(data, first, end)
        image = KvImage(self._kind, first, digest(reading.tokens[:first]), reading.tokens[first:end], data)
        return KvGiven(encode(image, self._fingerprint), first, end, digest(reading.tokens[:end]))

    def all_given(self, readings: Mapping[str, Reading]) -> dict[str, KvGiven]:
        """The images of what was read of several keys; without those of which nothing is new."""
        given = {}
        for key, reading in readings.items():
            if reading.first < reading.end:
                try:
                    given[key] = self.given(reading)
                except ValueError as error:
                    _log.warning("KV cannot be given away: %s", error)
        return given

    def taken(self, data: bytes) -> ShelvedKv:
        """What images make up together.

        Args:
            data: one image, or several in the order in which they were read.

        Raises:
            ValueError: they are no images, damaged, of another model, of another form than the context's, or none of
                them has the first token.
        """
        images = decode(data, self._fingerprint)
        for image in images:
            if image.form != self._kind:
                raise ValueError(f"it is in the form {image.form!r}, and this engine takes {self._kind!r}")
            if self._form is not None and len(image.data) != len(image.tokens) * self._form.token_bytes:
                raise ValueError(f"a token has {self._form.token_bytes} bytes here")
        tokens, used = attached(images)
        if not used:
            raise ValueError("no part of it begins with the first token")
        if self._form is None:
            return ShelvedKv(tokens, bytes(used[-1].data))
        return ShelvedKv(tokens, self._form.compose(len(tokens), [(image.first, image.data) for image in used]))

    @property
    def _kind(self) -> Form:
        return "state" if self._form is None else "rows"
