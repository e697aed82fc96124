"""Whole models of random small configurations, with the number of attention layers that must fuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LENGTH = 53
"""Positions of each sequence: long enough that the scores outweigh a head's q, k and v (width 16)."""
VOCABULARY = 97


@dataclass(frozen=True)
class ModelCase:
    """A model and how to call it.

    Attributes:
        name: the model.
        build: a seeded module in eval mode.
        inputs: keyword arguments of its forward.
        layers: attention layers, every one of which must fuse.
        select: the tensor to compare, from what the module returns.
        note: what a reader should know.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Any]]
    layers: int
    select: Callable[[Any], Tensor]
    note: str = ""

    def run(self, module: Callable[..., Any], inputs: dict[str, Any]) -> Tensor:
        """Call the module (or its compiled form) and select the tensor to compare."""
        return self.select(module(**inputs))


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """Build with fixed random weights, leaving the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _ids(batch: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(1, VOCABULARY, (batch, length), generator=_generator())


def _padding(batch: int = 2, length: int = LENGTH) -> Tensor:
    """Ones, with zeros at the end of the second sequence."""
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[1:, length - 11 :] = 0
    return mask


def _first(output: Any) -> Tensor:
    return output[0]


def _itself(output: Any) -> Tensor:
    return output


def _hidden(output: Any) -> Tensor:
    return output.last_hidden_state


# torch.nn


def _mha() -> nn.Module:
    return _seeded(lambda: nn.MultiheadAttention(48, 3, dropout=0.1))


def _mha_inputs() -> dict[str, Any]:
    """Cross attention, sequence first: [N,B,E], float mask [M,N]."""
    generator = _generator()
    query = torch.randn(37, 2, 48, generator=generator)
    memory = torch.randn(LENGTH, 2, 48, generator=generator)
    return {"query": query, "key": memory, "value": memory, "attn_mask": torch.randn(37, LENGTH, generator=generator)}


def _mha_boolean_inputs() -> dict[str, Any]:
    """Self attention with a causal and a padding mask (True: masked)."""
    x = torch.randn(LENGTH, 2, 48, generator=_generator())
    ahead = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    return {"query": x, "key": x, "value": x, "attn_mask": ahead, "key_padding_mask": _padding() == 0}


def _encoder_layer() -> nn.Module:
    return _seeded(lambda: nn.TransformerEncoderLayer(48, 3, dim_feedforward=64, norm_first=True))


def _encoder_inputs() -> dict[str, Any]:
    """Sequence first, so that the native fast path does not apply."""
    x = torch.randn(LENGTH, 2, 48, generator=_generator())
    mask = torch.zeros(LENGTH, LENGTH).masked_fill(torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1), -torch.inf)
    return {"src": x, "src_mask": mask}


# Hugging Face

_EAGER: dict[str, Any] = {"attn_implementation": "eager"}


def _bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=64,
        max_position_embeddings=64,
        **_EAGER,
    )
    return _seeded(lambda: BertModel(config, add_pooling_layer=False))


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=48, n_layer=2, n_head=3, n_positions=64, bos_token_id=0, eos_token_id=0, **_EAGER
    )
    return _seeded(lambda: GPT2Model(config))


_DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    **_EAGER,
}


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaModel

    return _seeded(lambda: LlamaModel(LlamaConfig(**_DECODER)))


def _gemma2() -> nn.Module:
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(**_DECODER, query_pre_attn_scalar=16, sliding_window=16, attn_logit_softcapping=20.0)
    return _seeded(lambda: Gemma2Model(config))


def _t5() -> nn.Module:
    from transformers import T5Config, T5Model

    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=48,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=3,
        **_EAGER,
    )
    return _seeded(lambda: T5Model(config))


def _padded_ids() -> dict[str, Any]:
    return {"input_ids": _ids(), "attention_mask": _padding()}


def _decoder_inputs() -> dict[str, Any]:
    return {"input_ids": _ids(), "attention_mask": _padding(), "use_cache": False}


def _t5_inputs() -> dict[str, Any]:
    return {
        "input_ids": _ids(),
        "attention_mask": _padding(),
        "decoder_input_ids": _ids(length=37),
        "use_cache": False,
    }


MODELS: tuple[ModelCase, ...] = (
    ModelCase("mha_cross", _mha, _mha_inputs, 1, _first, "returns the weights too, averaged over heads"),
    ModelCase(
        "mha_cross_no_weights",
        _mha,
        lambda: {**_mha_inputs(), "need_weights": False},
        1,
        _first,
        "calls scaled_dot_product_attention with a mask",
    ),
    ModelCase("mha_causal_padded", _mha, _mha_boolean_inputs, 1, _first),
    ModelCase("encoder_layer", _encoder_layer, _encoder_inputs, 1, _itself, "masked SDPA inside"),
    ModelCase("bert", _bert, _padded_ids, 2, _hidden),
    ModelCase("gpt2", _gpt2, _decoder_inputs, 2, _hidden),
    ModelCase("llama", _llama, _decoder_inputs, 2, _hidden, "grouped keys"),
    ModelCase("gemma2", _gemma2, _decoder_inputs, 2, _hidden, "soft cap; one sliding and one full layer"),
    ModelCase("t5", _t5, _t5_inputs, 6, _hidden, "encoder, decoder and cross attention of two layers each"),
)
