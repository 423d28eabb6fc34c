"""Which passes a long video is made of."""
