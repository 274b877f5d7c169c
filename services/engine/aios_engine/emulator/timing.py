"""How long one step of a GPU's continuous batch takes, by what is in it.

The model is linear, fitted to an 8-billion-parameter model in BF16: decoding is bound by reading weights and KV cache,
prefilling by arithmetic with a quadratic part for attention.

Not modelled: the noise of real steps, CUDA-graph batch buckets, speculative decoding, quantised KV, several GPUs for
one model, the time of tokenising, sampling and HTTP, swapping KV to host memory, and requests that change the shape of
a step (LoRA, grammars, images).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hardware:
    """Coefficients of one accelerator; times in seconds.

    Attributes:
        step_s: of any step: the weights are read once.
        sequence_s: for each decoding sequence.
        kv_token_s: for each token of KV the decoding sequences hold.
        prefill_s: of a step that prefills at all.
        prefill_token_s: for each prompt token computed.
        prefill_pair_s: for the square of the prompt's length; a chunk pays the difference of two squares.
        kv_tokens: tokens that fit the KV cache.
    """

    name: str
    step_s: float
    sequence_s: float
    kv_token_s: float
    prefill_s: float
    prefill_token_s: float
    prefill_pair_s: float
    kv_tokens: int

    def decode_s(self, sequences: int, kv_tokens: int) -> float:
        """Seconds of a step that only decodes."""
        return self.step_s + self.sequence_s * sequences + self.kv_token_s * kv_tokens

    def chunk_s(self, begin: int, end: int) -> float:
        """Seconds that prefilling prompt tokens `begin` to `end` of one sequence adds to a step."""
        return self.prefill_token_s * (end - begin) + self.prefill_pair_s * (end * end - begin * begin)


HARDWARE = {
    "h200": Hardware("h200", 4.87e-3, 1.25e-5, 2.92e-8, 3.48e-3, 1.745e-5, 6.46e-10, 850_000),
    "h100": Hardware("h100", 6.29e-3, 1.25e-5, 4.09e-8, 4.91e-3, 1.657e-5, 6.98e-10, 420_000),
    "a100": Hardware("a100", 11.66e-3, 2.73e-5, 8.42e-8, 7.51e-3, 5.456e-5, 1.54e-9, 420_000),
}
"""By name. The A100's KV budget is that of its 80 GB form, which has the same memory as the H100."""
