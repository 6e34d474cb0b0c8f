"""What is true, and how far draws are from it: exact posteriors, statistics, verdicts."""
