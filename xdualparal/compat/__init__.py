"""What xfuser lacks; knows nothing of DualParal."""
