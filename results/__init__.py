"""What a run leaves in its output folder, and how to read it."""
