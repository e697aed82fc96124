"""What the training examples share: text, batches, contenders taking turns, the comparison with eager, the table."""

from trainer.arguments import Settings
from trainer.run import Training, run

__all__ = ["Settings", "Training", "run"]
