"""Being a good program in a terminal: constants, one-line errors, whole files, processes that end."""
