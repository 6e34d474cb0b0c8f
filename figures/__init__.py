"""Arrays to figures: style (palette, axes), spectra, training, evaluation, studies."""
