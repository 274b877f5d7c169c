"""How the structs of the pinned llama.cpp library are laid out, and whether the installed one still is like that.

The wheel `xllamacpp` exports llama.cpp's whole C API from its extension module. The layout of the parameter structs
changes every few weeks, so the version is pinned, and `load_library` compares the defaults the library reports, read
through our layout, with those it is known to have: a wrong layout would otherwise show as a crash or as nonsense.
"""

import ctypes
import importlib.util
import logging
from collections.abc import Callable
from ctypes import (
    CDLL,
    CFUNCTYPE,
    POINTER,
    Structure,
    c_bool,
    c_char_p,
    c_float,
    c_int,
    c_int8,
    c_int32,
    c_size_t,
    c_uint32,
    c_void_p,
)
from pathlib import Path
from typing import Final

from aios_engine.errors import SetupError

PINNED: Final = "2026.10.11549"
_INSTALL: Final = f"pip install --no-deps xllamacpp=={PINNED}"

_log = logging.getLogger(__name__)

ProgressCallback = CFUNCTYPE(c_bool, c_float, c_void_p)
_LogCallback = CFUNCTYPE(None, c_int, c_char_p, c_void_p)


class ModelParams(Structure):
    """`llama_model_params`."""

    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int),
        ("load_mode", c_int),
        ("lazy_mode", c_int),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", ProgressCallback),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    )


class ContextParams(Structure):
    """`llama_context_params`."""

    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int),
        ("rope_scaling_type", c_int),
        ("pooling_type", c_int),
        ("attention_type", c_int),
        ("flash_attn_type", c_int),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int),
        ("type_v", c_int),
        ("moe_cache_size", c_size_t),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    )


class Batch(Structure):
    """`llama_batch`."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


_FUNCTIONS: Final[dict[str, tuple[type | None, tuple[type, ...]]]] = {
    "llama_backend_init": (None, ()),
    "llama_model_default_params": (ModelParams, ()),
    "llama_context_default_params": (ContextParams, ()),
    "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParams)),
    "llama_model_free": (None, (c_void_p,)),
    "llama_init_from_model": (c_void_p, (c_void_p, ContextParams)),
    "llama_free": (None, (c_void_p,)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_model_n_ctx_train": (c_int32, (c_void_p,)),
    "llama_model_desc": (c_int32, (c_void_p, c_char_p, c_size_t)),
    "llama_model_meta_val_str": (c_int32, (c_void_p, c_char_p, c_char_p, c_size_t)),
    "llama_model_chat_template": (c_char_p, (c_void_p, c_char_p)),
    "llama_n_ctx_seq": (c_uint32, (c_void_p,)),
    "llama_get_memory": (c_void_p, (c_void_p,)),
    "llama_memory_seq_rm": (c_bool, (c_void_p, c_int32, c_int32, c_int32)),
    "llama_memory_seq_cp": (None, (c_void_p, c_int32, c_int32, c_int32, c_int32)),
    "llama_state_seq_get_size": (c_size_t, (c_void_p, c_int32)),
    "llama_state_seq_get_data": (c_size_t, (c_void_p, c_void_p, c_size_t, c_int32)),
    "llama_state_seq_set_data": (c_size_t, (c_void_p, c_void_p, c_size_t, c_int32)),
    "llama_batch_init": (Batch, (c_int32, c_int32, c_int32)),
    "llama_batch_free": (None, (Batch,)),
    "llama_decode": (c_int32, (c_void_p, Batch)),
    "llama_get_logits_ith": (POINTER(c_float), (c_void_p, c_int32)),
    "llama_tokenize": (c_int32, (c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool)),
    "llama_token_to_piece": (c_int32, (c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
    "llama_vocab_get_attr": (c_int, (c_void_p, c_int32)),
    "llama_vocab_is_eog": (c_bool, (c_void_p, c_int32)),
    "llama_vocab_bos": (c_int32, (c_void_p,)),
    "llama_vocab_eos": (c_int32, (c_void_p,)),
    "llama_vocab_get_add_bos": (c_bool, (c_void_p,)),
    "llama_log_set": (None, (_LogCallback, c_void_p)),
}

# What this version reports; `type_k` and `type_v` 1 is F16.
_MODEL_DEFAULTS: Final = {"n_gpu_layers": -1, "split_mode": 1, "main_gpu": 0, "vocab_only": False}
_CONTEXT_DEFAULTS: Final = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "flash_attn_type": -1,
    "type_k": 1,
    "type_v": 1,
    "offload_kqv": True,
    "kv_unified": False,
    "n_samplers": 0,
}

_loaded: CDLL | None = None


def load_library() -> CDLL:
    """The library, with every function's types declared; loaded and checked once.

    Raises:
        SetupError: the wheel is missing, or is another version than the pinned one.
    """
    global _loaded  # noqa: PLW0603 - a shared library is loaded once a process whatever we do
    if _loaded is not None:
        return _loaded
    library = _open()
    for name, (result, arguments) in _FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise _wrong_version(f"it has no function {name}") from error
        function.restype = result
        function.argtypes = arguments
    library.llama_log_set(_forward_log, None)
    _check("llama_model_params", library.llama_model_default_params(), _MODEL_DEFAULTS)
    _check("llama_context_params", library.llama_context_default_params(), _CONTEXT_DEFAULTS)
    library.llama_backend_init()
    _loaded = library
    return library


def _open() -> CDLL:
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise SetupError(f"the inference library is not installed; install it with: {_INSTALL}")
    path = Path(spec.origin).parent / "xllamacpp.abi3.so"
    if not path.exists():
        raise _wrong_version(f"{path} does not exist")
    try:
        return CDLL(str(path))
    except OSError as error:
        raise SetupError(f"the inference library cannot be loaded: {error}; reinstall it with: {_INSTALL}") from error


def _check(what: str, found: Structure, expected: dict[str, int | bool]) -> None:
    for field, value in expected.items():
        actual = getattr(found, field)
        if actual != value:
            raise _wrong_version(f"{what}.{field} is {actual}, expected {value}")


def _wrong_version(detail: str) -> SetupError:
    return SetupError(
        f"the installed xllamacpp is not version {PINNED}, which this engine is written for ({detail}); "
        f"install it with: {_INSTALL}"
    )


def _log_line(level: int, text: bytes | None, _: object) -> None:
    # ggml's levels: 3 is a warning, 4 an error; 5 continues a line. What it says when all is well is left out.
    if level in (3, 4) and text:
        line = text.decode("utf-8", errors="replace").rstrip()
        _log.log(logging.WARNING if level == 3 else logging.ERROR, "llama.cpp: %s", line)


# The library keeps the pointer, so the object must live as long as the process.
_forward_log = _LogCallback(_log_line)


def progress_callback(report: Callable[[float], None]) -> "ctypes._FuncPointer":
    """A C callback that reports the share of the model that is loaded, 0 to 1; keep it until loading has ended."""

    def call(share: float, _: object) -> bool:
        report(share)
        return True

    return ProgressCallback(call)
