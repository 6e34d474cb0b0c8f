"""What combines several runs of the scripts; `python -m studies.NAME --help` says more of each.

quick            in seconds: r from two text files, by the prior that the repository holds
demo             in minutes: the published recipe and a posterior on the same observations
posterior        the measured posteriors of the README, without foregrounds
foreground       a posterior under a fixed d1 s1 foreground
own_simulations  bare arrays of a toy simulator, held against its exact posterior
masked           posteriors of part of the sky, and of a map, beside the exact ones
forecast         sigma(r) of two instruments, cleaned, with all lensing and with 84 % delensing
mismatch         r on d1 s1 skies by models that were trained on other foregrounds
solvers          quality against network evaluations for every solver
likelihood       posteriors by a prior's network and a likelihood, of any noise
likelihood_results  the table and the figure of likelihood
pretrained       the prior that the repository holds, made anew
runs             what they share: steps and how they run, files of one r, settings of the network
"""
