"""What a machine does in a second, measured."""
