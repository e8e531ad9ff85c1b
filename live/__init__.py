"""A camera and a screen. No torch."""
