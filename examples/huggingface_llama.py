"""A Hugging Face model in eager attention mode, unmodified: every layer fuses, masks and grouped keys included."""

import torch
from transformers import LlamaConfig, LlamaModel

import flashlight

LAYERS = 2


def build() -> LlamaModel:
    """A small random Llama with grouped keys."""
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=2,
    )
    model = LlamaModel(config).eval()
    model.set_attn_implementation("eager")
    return model


def main() -> None:
    """Compile, compare with eager, show what was fused."""
    torch.manual_seed(0)
    model = build()
    tokens = torch.randint(0, 1000, (2, 256))
    padding = torch.ones_like(tokens)
    padding[1, 200:] = 0
    compiled = torch.compile(model, backend="flashlight")
    with torch.no_grad():
        expected = model(input_ids=tokens, attention_mask=padding, use_cache=False).last_hidden_state
        actual = compiled(input_ids=tokens, attention_mask=padding, use_cache=False).last_hidden_state
    error = (actual - expected).abs().max().item()
    print(f"largest difference from eager: {error:.1e}")
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
    for report in flashlight.reports():
        print(report)
    print(f"{sum(report.fused for report in flashlight.reports())} of {LAYERS} attention layers fused")


if __name__ == "__main__":
    main()
