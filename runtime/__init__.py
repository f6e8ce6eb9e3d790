"""The only package that knows hardware, ranks, precision and library versions."""
