"""Training: the loop, its compiled step, the training state, checkpoints and metrics."""

import lazy_loader

# Imported lazily, so that importing one module does not load the whole training loop.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
