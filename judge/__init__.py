"""Measures how good a network is: metrics, tables, plots, damaged photos. No torch."""
