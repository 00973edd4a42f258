"""Training: the loop, the step it compiles, its state, checkpoints and metrics."""

import lazy_loader

# Imported on first use: the parts do not need the loop.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
