"""Parameter-free detection ops: pure functions whose results are finite for every box."""
