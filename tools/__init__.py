"""Programs beside the pipeline: run them as python -m tools.bench from the project's folder."""
