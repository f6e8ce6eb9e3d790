"""Every option of main.py: defined, parsed, checked, frozen."""
