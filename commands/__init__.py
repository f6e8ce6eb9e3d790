"""What main.py can do."""
