"""A loaded model and its context: tokens in, logits out, and the KV of each sequence under our control.

One thread uses a `Context`. A `Vocabulary` only reads and may be used from any thread.
"""

import ctypes
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from aios_engine.core.sampling import Logits
from aios_engine.errors import SetupError
from aios_engine.file_digest import file_digest
from aios_engine.llama import abi
from aios_engine.llama.kv_state import Bytes, KvForm, State, form_of

_log = logging.getLogger(__name__)

_ATTRIBUTE_CONTROL: Final = 1 << 3
_ATTRIBUTE_USER_DEFINED: Final = 1 << 4
_PIECE_BYTES: Final = 1024


class Token(NamedTuple):
    """One token to give to the model.

    Attributes:
        id: of the vocabulary.
        position: in its sequence.
        slot: the KV sequence it belongs to.
        wants_logits: whether the scores of the token after it are needed.
    """

    id: int
    position: int
    slot: int
    wants_logits: bool


class DecodeError(RuntimeError):
    """llama.cpp could not run a step."""


class Vocabulary:
    """The tokens of a model: text to ids and back."""

    def __init__(self, library: ctypes.CDLL, pointer: int) -> None:
        self._library = library
        self.pointer = pointer
        self.size: int = library.llama_vocab_n_tokens(pointer)
        self.adds_bos: bool = library.llama_vocab_get_add_bos(pointer)

    @cached_property
    def pieces(self) -> tuple[bytes, ...]:
        """The bytes of each token."""
        buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        pieces = []
        for token in range(self.size):
            count = self._library.llama_token_to_piece(self.pointer, token, buffer, _PIECE_BYTES, 0, True)
            if count < 0:
                raise SetupError(f"token {token} of the model has more than {_PIECE_BYTES} bytes")
            pieces.append(buffer.raw[:count])
        return tuple(pieces)

    @cached_property
    def special(self) -> frozenset[int]:
        """Control tokens: never part of generated text."""
        return frozenset(
            token
            for token in range(self.size)
            if self._library.llama_vocab_get_attr(self.pointer, token) & _ATTRIBUTE_CONTROL
        )

    @cached_property
    def end_of_generation(self) -> frozenset[int]:
        """Tokens that end a generation."""
        return frozenset(token for token in range(self.size) if self._library.llama_vocab_is_eog(self.pointer, token))

    @property
    def bos(self) -> int | None:
        """The beginning-of-sequence token."""
        token: int = self._library.llama_vocab_bos(self.pointer)
        return token if token >= 0 else None

    @property
    def eos(self) -> int | None:
        """The end-of-sequence token."""
        token: int = self._library.llama_vocab_eos(self.pointer)
        return token if token >= 0 else None

    @property
    def tokenize_address(self) -> int:
        """Where `llama_tokenize` is, for libraries that call it themselves."""
        address = ctypes.cast(self._library.llama_tokenize, ctypes.c_void_p).value
        if address is None:
            raise SetupError("llama_tokenize has no address")
        return address

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """The ids of a text; names of control tokens in it become those tokens.

        Args:
            text: any text.
            add_special: whether to begin with the beginning-of-sequence token, where the model wants one.
        """
        data = text.encode("utf-8", errors="replace")
        capacity = len(data) + 8
        while True:
            ids = (ctypes.c_int32 * capacity)()
            count: int = self._library.llama_tokenize(self.pointer, data, len(data), ids, capacity, add_special, True)
            if count >= 0:
                return ids[:count]
            capacity = -count


@dataclass(frozen=True, slots=True)
class ContextSize:
    """How much a context holds and computes.

    Attributes:
        slots: sequences.
        slot_tokens: tokens of each.
        micro_batch_tokens: tokens computed together; above 63 llama.cpp takes other kernels, and a prompt's bits
            depend on how it was cut.
        threads: CPU threads.
    """

    slots: int
    slot_tokens: int
    micro_batch_tokens: int = 32
    threads: int = 1


class Model:
    """A model file in memory."""

    def __init__(self, path: Path, on_progress: Callable[[float], None] = lambda share: None) -> None:
        """Loads a .gguf file.

        Args:
            path: of the file, or of the first of several parts.
            on_progress: told the loaded share, 0 to 1.

        Raises:
            SetupError: the library or the file cannot be used.
        """
        self.library = abi.load_library()
        parameters = self.library.llama_model_default_params()
        parameters.n_gpu_layers = 0
        callback = abi.progress_callback(on_progress)
        parameters.progress_callback = callback
        self.pointer: int | None = self.library.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.pointer:
            raise SetupError(f"{path} cannot be loaded: it is no .gguf file that this llama.cpp knows, or is damaged")
        self.vocabulary = Vocabulary(self.library, self.library.llama_model_get_vocab(self.pointer))
        self.trained_tokens: int = self.library.llama_model_n_ctx_train(self.pointer)
        self.digest = file_digest(path)

    @property
    def description(self) -> str:
        """Architecture, size and quantisation in llama.cpp's words, such as `llama 135M Q8_0`."""
        buffer = ctypes.create_string_buffer(256)
        self.library.llama_model_desc(self.pointer, buffer, len(buffer))
        return buffer.value.decode("utf-8", errors="replace")

    def rotates_for(self, slot_tokens: int) -> str:
        """Which of its position encodings a context of that size has; empty where the file has but one (no LongRoPE).

        KV of one is of no use to the other.
        """
        original = self._metadata(f"{self._metadata('general.architecture')}.rope.scaling.original_context_length")
        if not original.isdecimal():
            return ""
        return "long" if slot_tokens > int(original) else "short"

    def _metadata(self, key: str) -> str:
        """A value of the file's metadata as text; empty where it has none."""
        buffer = ctypes.create_string_buffer(256)
        length = self.library.llama_model_meta_val_str(self.pointer, key.encode(), buffer, len(buffer))
        return "" if length < 0 else buffer.value.decode("utf-8", errors="replace")

    @property
    def chat_template(self) -> str | None:
        """The Jinja source in the file."""
        source: bytes | None = self.library.llama_model_chat_template(self.pointer, None)
        return None if source is None else source.decode("utf-8", errors="replace")

    def close(self) -> None:
        """Frees the memory; contexts of it must be closed before."""
        if self.pointer:
            self.library.llama_model_free(self.pointer)
            self.pointer = None


class Context:
    """The KV of several sequences, and the step that computes the next tokens.

    Attributes:
        slot_tokens: tokens that fit a slot.
        form: how states are laid out; None where that is not known, and then rows cannot be read.
    """

    def __init__(self, model: Model, size: ContextSize) -> None:
        """Reserves the KV.

        Raises:
            SetupError: there is not enough memory.
        """
        self._library = model.library
        self._vocabulary_size = model.vocabulary.size
        parameters = self._library.llama_context_default_params()
        parameters.n_ctx = size.slots * size.slot_tokens
        parameters.n_seq_max = size.slots
        parameters.n_batch = max(64, 2 * size.micro_batch_tokens + size.slots)
        parameters.n_ubatch = size.micro_batch_tokens
        parameters.n_threads = parameters.n_threads_batch = size.threads
        parameters.kv_unified = False
        self._capacity: int = parameters.n_batch
        self._pointer: int | None = self._library.llama_init_from_model(model.pointer, parameters)
        if not self._pointer:
            raise SetupError(
                f"no memory for {size.slots} sequences of {size.slot_tokens} tokens; "
                "lower AIOS_ENGINE_MAX_SEQUENCES or AIOS_ENGINE_N_CTX"
            )
        # llama.cpp rounds the tokens of a sequence up.
        self.slot_tokens: int = self._library.llama_n_ctx_seq(self._pointer)
        self.form: KvForm | None = None
        self._scratch: Bytes = np.empty(0, np.uint8)
        self._memory = self._library.llama_get_memory(self._pointer)
        self._batch = self._library.llama_batch_init(self._capacity, 0, 1)

    def decode(self, tokens: Sequence[Token]) -> dict[int, Logits]:
        """Runs one step.

        Args:
            tokens: at most `prefill chunk + slots` of them; those of one sequence in order.

        Returns:
            For each index in `tokens` that wants them, the scores of the token after it, shape (vocabulary,). They
            lie in llama.cpp's memory and are valid until the next step.

        Raises:
            DecodeError: the step failed; the KV of the sequences in it is in doubt.
        """
        batch = self._batch
        if len(tokens) > self._capacity:
            raise DecodeError(f"{len(tokens)} tokens in a step that holds {self._capacity}")
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index] = token.id
            batch.pos[index] = token.position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = token.slot
            batch.logits[index] = token.wants_logits
        status = self._library.llama_decode(self._pointer, batch)
        if status != 0:
            raise DecodeError(f"llama_decode returned {status}")
        return {
            index: np.ctypeslib.as_array(
                self._library.llama_get_logits_ith(self._pointer, index), shape=(self._vocabulary_size,)
            )
            for index, token in enumerate(tokens)
            if token.wants_logits
        }

    def truncate(self, slot: int, tokens: int) -> None:
        """Keeps the first `tokens` tokens of a slot's KV."""
        if not self._library.llama_memory_seq_rm(self._memory, slot, tokens, -1):
            raise DecodeError(f"the KV of slot {slot} cannot be cut at {tokens}")

    def copy(self, source: int, target: int, *, at_once: bool = False) -> bool:
        """Replaces one slot's KV by another's; False if that cannot be done, and then the target is empty.

        Args:
            source: copied from. llama.cpp does so at the beginning of the next step: it must not be restored before.
            target: copied to.
            at_once: copy now, which takes longer.
        """
        if not at_once:
            self._library.llama_memory_seq_cp(self._memory, source, target, -1, -1)
            return True
        try:
            return self.restore(target, self._state(source))
        except DecodeError as error:
            _log.warning("KV is computed again: %s", error)
            self._library.llama_memory_seq_rm(self._memory, target, -1, -1)
            return False

    def learn_form(self, token: int) -> None:
        """Finds out the form of the states from one of the empty slot 0; call it before anything else is computed.

        Args:
            token: any of the vocabulary.
        """
        try:
            self.decode([Token(token, 0, 0, wants_logits=True)])
            self.form = form_of(self.save(0))
            self.truncate(0, 0)
        except DecodeError as error:
            _log.warning("the form of the KV is not known: %s", error)
        if self.form is not None:
            # As large as it can get, so that it never moves: memory is taken only where it is written to.
            self._scratch = np.empty(self.form.state_bytes(self.slot_tokens), np.uint8)

    def save(self, slot: int) -> bytes:
        """The KV of a slot as bytes, in llama.cpp's own format.

        Raises:
            DecodeError: it cannot be read.
        """
        return self._state(slot).tobytes()

    def rows(self, slot: int, first: int, end: int) -> bytearray:
        """The KV of a slot's tokens from `first` up to `end`; there is a `form`.

        llama.cpp gives the KV of a slot as a whole, so this takes about 0.1 ms for each MB of all its tokens.

        Raises:
            DecodeError: it cannot be read.
        """
        if self.form is None:
            raise DecodeError("the KV has no form that rows can be taken from")
        try:
            return self.form.rows(self._state(slot), first, end)
        except ValueError as error:
            raise DecodeError(f"the KV of slot {slot} cannot be read: {error}") from error

    def _state(self, slot: int) -> Bytes:
        """The KV of a slot, in memory that the next reading uses again: fresh memory costs ten times the copying."""
        size: int = self._library.llama_state_seq_get_size(self._pointer, slot)
        if len(self._scratch) < size:
            self._scratch = np.empty(size, np.uint8)
        written: int = self._library.llama_state_seq_get_data(self._pointer, self._scratch.ctypes.data, size, slot)
        if not written:
            raise DecodeError(f"the KV of slot {slot} cannot be saved")
        return self._scratch[:written]

    def restore(self, slot: int, state: State | Bytes) -> bool:
        """Replaces the KV of a slot by a state; False if it does not fit, and then the slot is empty."""
        data = np.frombuffer(state, np.uint8)
        if self._library.llama_state_seq_set_data(self._pointer, data.ctypes.data, len(data), slot):
            return True
        self._library.llama_memory_seq_rm(self._memory, slot, -1, -1)
        return False

    def close(self) -> None:
        """Frees the memory."""
        if self._pointer:
            self._library.llama_batch_free(self._batch)
            self._library.llama_free(self._pointer)
            self._pointer = None
