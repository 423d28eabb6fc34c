"""Latents to frames to files."""
