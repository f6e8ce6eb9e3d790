"""An image's way from a file to a batch."""
