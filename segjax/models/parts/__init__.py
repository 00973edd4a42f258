"""Parts that several architectures are built of."""
