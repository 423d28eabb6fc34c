"""What happens, as data: standard library only."""
