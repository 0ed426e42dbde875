"""What does a browser see? The hosted page, its files, its languages."""
