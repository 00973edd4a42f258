"""Detection mathematics without parameters: pure functions, finite for every box."""
