"""The vendors, one file per kind; the seam says what a kind is."""
