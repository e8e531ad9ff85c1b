"""Beside the pipeline, run as python -m tools.bench from the folder of the scripts."""
