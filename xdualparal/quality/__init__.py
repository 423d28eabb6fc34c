"""Metrics of long videos that need no pretrained network."""
