"""Instance segmentation in JAX: a pure-functional model zoo in Flax linen."""

import lazy_loader

from segjax._xla_flags import avoid_known_faults

__version__ = "0.1.0"

# The one effect of importing segjax: XLA's flags, which must stand before JAX starts.
xla_flags_added = avoid_known_faults()

# Public names stand in __init__.pyi. They are imported on first use, so that `import segjax` is
# cheap and touches no device.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
