"""Is this a person? One file per kind; the seam says what a kind is."""
