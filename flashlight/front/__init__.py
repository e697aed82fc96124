"""From PyTorch's graph to Programs and back: regions, lowering, capture, insertion."""
