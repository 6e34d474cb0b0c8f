"""What is learned and drawn: normalisers, training, solvers, sampling, likelihood."""
