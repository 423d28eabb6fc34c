"""The demo model and its world."""
