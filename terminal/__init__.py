"""What every program needs: constants, one-line errors, stops, whole files, processes."""
