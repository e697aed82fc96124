"""Kind 9: what must pass through untouched, with nothing declined and no word in the report."""

import torch
import torch.nn.functional as F

from tests.zoo.variant import Draw, Row, Size, drawn

KIND = Row(9)


def _weights(*shapes):
    """A `make`: the first tensor [B,N,C] or of the first shape, then weights of these shapes."""

    def inputs(draw: Draw, size: Size):
        first, *rest = shapes
        sizes = {"B": size.batch, "N": size.keys}
        first = [n if isinstance(n, int) else sizes[n] for n in first]
        return draw.normal(*first), *(draw.normal(*s, scale=max(1, s[-1]) ** -0.5) for s in rest)

    return drawn(inputs)


@KIND.add(
    "coordinate_mlp", "sines of coordinates, four layers", _weights(("N", 64, 3), (24, 64), (64, 64), (64, 64), (64, 4))
)
def coordinate_mlp(x, first, second, third, last):
    rate = 2.0 ** torch.arange(4, device=x.device, dtype=x.dtype)
    angle = (x[..., None] * rate).flatten(-2)
    h = torch.relu(torch.cat([angle.sin(), angle.cos()], -1) @ first)
    h = torch.relu(torch.relu(h @ second) @ third)
    return torch.sigmoid(h @ last)


@KIND.add(
    "transformer_mlp", "four times wider, GELU, norms", _weights(("B", "N", 48), (192, 48), (192,), (48, 192), (48,))
)
def transformer_mlp(x, up, up_bias, down, down_bias):
    h = F.gelu(F.linear(F.layer_norm(x, x.shape[-1:]), up, up_bias))
    return x + F.linear(h, down, down_bias)


@KIND.add("mixer", "tokens and channels in turn", _weights(("B", 196, 32), (98, 196), (196, 98), (128, 32), (32, 128)))
def mixer(x, tokens_up, tokens_down, up, down):
    y = F.layer_norm(x, x.shape[-1:]).transpose(1, 2)
    x = x + F.linear(F.gelu(F.linear(y, tokens_up)), tokens_down).transpose(1, 2)
    return x + F.linear(F.gelu(F.linear(F.layer_norm(x, x.shape[-1:]), up)), down)


@KIND.add("residual_block", "convolutions and group norms", _weights(("B", 32, 24, 24), (32, 32, 3, 3), (32, 32, 3, 3)))
def residual_block(x, first, second):
    h = F.relu(F.group_norm(F.conv2d(x, first / 3, padding=1), 8))
    return F.relu(x + F.group_norm(F.conv2d(h, second / 3, padding=1), 8))


@KIND.add(
    "large_kernel",
    "depthwise, dilated, pointwise, gate",
    _weights(("B", 32, 24, 24), (32, 1, 5, 5), (32, 1, 7, 7), (32, 32, 1, 1)),
)
def large_kernel(x, near, far, point):
    a = F.conv2d(x, near, padding=2, groups=32)
    a = F.conv2d(a, far, padding=9, dilation=3, groups=32)
    return x * F.conv2d(a, point)


@KIND.add("local_strips", "gates of rows and of columns", _weights(("B", 32, 24, 24), (32, 1, 7)))
def local_strips(x, kernel):
    rows = torch.sigmoid(F.group_norm(F.conv1d(x.mean(3), kernel, padding=3, groups=32), 8))
    columns = torch.sigmoid(F.group_norm(F.conv1d(x.mean(2), kernel, padding=3, groups=32), 8))
    return x * rows[..., None] * columns[..., None, :]


@KIND.add(
    "subspaces", "a softmax over the places of every subspace", _weights(("B", 32, 24, 24), (8, 1, 1, 1), (1, 8, 1, 1))
)
def subspaces(x, depth, point):
    parts = []
    for part in x.chunk(4, dim=1):
        h = F.max_pool2d(F.relu(F.conv2d(part, depth, groups=8)), 3, 1, 1)
        a = F.conv2d(h, point).flatten(2).softmax(-1).view(x.shape[0], 1, *x.shape[2:])
        parts.append(part + part * a)
    return torch.cat(parts, 1)


@KIND.add("gaussian_gate", "features weighted by their own bell", _weights(("B", "N", 48), (4,), (4,)))
def gaussian_gate(x, shift, width):
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True) + 1e-8
    gates = []
    for offset, factor in zip(shift, width, strict=True):
        z = (x - mean - offset) / variance.sqrt()
        gates.append(torch.exp(-(z**2) / (2 * (factor**2 + 0.5))))
    return x * torch.stack(gates).prod(0)


def _classes(draw: Draw, size: Size):
    return draw.normal(size.keys, 64), draw.normal(10, 64), draw.integers(0, 10, size.keys)


@KIND.add("class_scores", "linear classifier and its loss", drawn(_classes))
def class_scores(x, w, target):
    logits = F.linear(F.normalize(x, dim=-1), w)
    return F.cross_entropy(logits, target), logits.softmax(-1)


@KIND.add(
    "gated_convolution", "a causal convolution between gates", _weights(("B", "N", 48), (48, 144), (48, 1, 4), (48, 48))
)
def gated_convolution(x, w, kernel, out):
    a, b, c = (x @ w).chunk(3, dim=-1)
    y = F.conv1d(F.pad((a * b).transpose(1, 2), (3, 0)), kernel, groups=48).transpose(1, 2)
    return (c * F.silu(y)) @ out
