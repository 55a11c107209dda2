"""Tables of runs: declared, run, compared, written."""
