import torch


def attention(q, k, v, sink):  # q, k, v: [1, 2, 200, 32]; sink: one more logit a head, whose weight is dropped
    s = q @ k.mT / 5.7 + 0.1 * torch.tanh(q @ k.mT)
    s = torch.cat([s, sink[None, :, None, None].expand(1, 2, 200, 1)], -1)
    return torch.softmax(s, -1)[..., :-1] @ v


def inputs():
    return (*(torch.randn(1, 2, 200, 32) for _ in range(3)), torch.randn(2))
