"""The vector of a text: a BERT-like encoder on ONNX Runtime, mean of the token vectors, brought to length one.

Source: sentence-transformers' all-MiniLM-L6-v2 (mean pooling over the attention mask, then L2 normalisation).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from aios_engine.embedding.source import ModelFiles
from aios_engine.errors import SetupError

Vectors = npt.NDArray[np.float32]

# Texts run together are padded to the longest, so they go by length, and not too many at once.
_TEXTS_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text as the model sees it.

    Attributes:
        ids: begin and end marks included.
        cut: whether the end of the text had to go.
    """

    ids: tuple[int, ...]
    cut: bool


class Encoder:
    """One loaded model. Not for several threads at once; every call blocks for milliseconds a text.

    Args:
        files: the model and its tokenizer.
        max_tokens: longest text, begin and end marks included; what is longer loses its end.
        threads: CPU threads of one batch.

    Raises:
        SetupError: the files cannot be used.
    """

    def __init__(self, files: ModelFiles, max_tokens: int, threads: int) -> None:
        self.name = files.name
        self.max_tokens = max_tokens
        try:
            self._tokenizer = Tokenizer.from_file(str(files.tokenizer))
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(str(files.model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # both libraries raise their own, some of them bare `Exception`
            raise SetupError(f"the embedding model {files.name} cannot be loaded: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._inputs = frozenset(entry.name for entry in self._session.get_inputs())
        self.dimensions = int(self.encode([self.tokenize("dimensions")]).shape[1])

    def tokenize(self, text: str) -> Tokens:
        """The tokens of a text, at most `max_tokens`; the last of a text that was cut is its end mark."""
        ids = self._tokenizer.encode(text).ids
        if len(ids) <= self.max_tokens:
            return Tokens(tuple(ids), cut=False)
        return Tokens((*ids[: self.max_tokens - 1], ids[-1]), cut=True)

    def encode(self, texts: Sequence[Tokens], *, normalize: bool = True) -> Vectors:
        """One vector per text, `(len(texts), dimensions)`."""
        order = sorted(range(len(texts)), key=lambda place: len(texts[place].ids))
        parts = [
            self._run([texts[place] for place in order[start : start + _TEXTS_AT_ONCE]])
            for start in range(0, len(order), _TEXTS_AT_ONCE)
        ]
        joined = np.concatenate(parts)
        vectors = np.empty_like(joined)
        vectors[order] = joined
        if normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def _run(self, texts: Sequence[Tokens]) -> Vectors:
        width = max(len(text.ids) for text in texts)
        ids = np.zeros((len(texts), width), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text.ids)] = text.ids
            mask[row, : len(text.ids)] = 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = self._session.run(None, {name: value for name, value in given.items() if name in self._inputs})[0]
        weights = mask[:, :, None].astype(np.float32)
        pooled: Vectors = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        return pooled
