"""Commands of `segjax`, a file for each kind; `segjax.cli` puts them together."""
