"""What did the operator ask for? One TOML file, read once, typed and frozen; every mistake reported at once."""
