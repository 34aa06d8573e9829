"""Pictures of runs, clusters, spectra and comparisons."""
