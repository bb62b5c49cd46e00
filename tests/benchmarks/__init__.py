"""`make bench`: speed as ratios against floors measured in the same run. It asserts nothing: machines are noisy."""
