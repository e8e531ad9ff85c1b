"""Cameras, videos and photos, and the window that shows them. No torch."""
