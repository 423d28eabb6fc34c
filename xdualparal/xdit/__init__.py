"""DualParal in xDiT's runner: the only place that imports it."""
