"""Who is refused before anything else, and who never is: [[block]], [[allow]], and what `block add` added."""
