"""A contrastive loss in both directions whose temperature multiplies one side: that side is no weight of a layer."""

import torch
from torch.nn import functional as F

N, D = 290, 16
DTYPE = torch.float32
GEARS = ("evaluate", "native")


def inputs(seed):
    torch.manual_seed(seed)
    return F.normalize(torch.randn(N, D), dim=-1), F.normalize(torch.randn(N, D), dim=-1), torch.rand(())


def fn(x, y, scale):
    logits = scale.exp() * x @ y.t()
    labels = torch.arange(N)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2
