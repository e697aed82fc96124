import torch


def attention(q, k, v, weight):  # two maps from halves of the features: [1, 2, 300, 64]; weight: [1]
    (q1, q2), (k1, k2) = q.chunk(2, -1), k.chunk(2, -1)
    first, second = torch.softmax(q1 @ k1.mT / 5.6, -1), torch.softmax(q2 @ k2.mT / 5.6, -1)
    return (first - weight * second) @ v


def inputs():
    return (*(torch.randn(1, 2, 300, 64) for _ in range(3)), torch.rand(1))
