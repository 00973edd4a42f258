"""Commands of `segjax`, grouped by file; `segjax.cli` combines them."""
