"""Row 9, the part without a model: dropout in eval mode leaves nothing behind."""

import torch
import torch.nn.functional as F

from tests.zoo.variant import Row, qkv

ROW = Row(9)


@ROW.add("dropout_eval", "functional", qkv)
def dropout_functional(q, k, v):
    weights = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1)
    weights = F.dropout(weights, p=0.1, training=False)
    return weights @ v


@ROW.add("dropout_eval", "torch.dropout", qkv)
def dropout_torch(q, k, v):
    scores = torch.einsum("bhmd,bhnd->bhmn", q, k) * q.shape[-1] ** -0.5
    weights = torch.dropout(F.softmax(scores, -1), 0.5, False)
    return torch.einsum("bhmn,bhnd->bhmd", weights, v)


@ROW.add("dropout_eval", "probability zero", qkv)
def dropout_zero(q, k, v):
    weights = F.softmax(torch.matmul(q, k.mT) * q.shape[-1] ** -0.5, dim=-1)
    return F.dropout(torch.matmul(F.dropout(weights, 0.0), v), 0.0)
