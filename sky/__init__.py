"""What is simulated and observed: from CAMB spectra to rows of truth and observation.

cosmology -> realisations --+
foregrounds, instruments -> cleaning -> simulation -> data_generation.py
"""
