"""What is simulated and observed: from CAMB spectra to rows of truth and observation.

cosmology (CAMB) -> realisations (random streams, draws) ----------------------+
presets (PySM3) -> foregrounds; instruments -> cleaning -> observation -> simulation

What is asked for, what is expected, what is drawn:

SkyModel, Observation -> MultifrequencySky (per band; its ForegroundModel) -> Simulator (cleaned)
                      -> ExpectedPowers (one spectrum), or modes of all bands -> Rows
"""
