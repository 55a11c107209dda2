"""The tables of the papers and the releases: declared in files, run, compared and reported. Not part of the wheel."""
