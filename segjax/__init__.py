"""Instance segmentation in JAX: a pure-functional model zoo in Flax linen."""

import lazy_loader

from segjax._xla_flags import avoid_known_faults

__version__ = "0.1.0"

# The only side effect of importing segjax: XLA flags have to be set before JAX starts.
xla_flags_added = avoid_known_faults()

# Public names are listed in __init__.pyi and imported on first use, so that `import segjax` is
# cheap and does not touch any device.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
