"""Measures how good a network is: metrics, tables, plots, corruptions. No torch."""
