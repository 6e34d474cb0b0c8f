"""What combines several runs of the scripts."""
