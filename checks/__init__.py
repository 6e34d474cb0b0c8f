"""What is true, and how far draws are from it: exact posteriors, statistics, verdicts.

From the bottom: noncentral (the law of a power), exact and exact_r (posteriors of a spectrum and
of r), posteriors (of given observations); statistics, law, truth (distances); run and skies (what
is evaluated); sharpness, calibration, r (measurements), verdicts (the registry of checks);
evaluation and report (of evaluate.py), output (of sample.py).
"""
