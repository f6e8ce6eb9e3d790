"""Stand-in for the unrelated package of the same name: it imports, and has no amp."""
