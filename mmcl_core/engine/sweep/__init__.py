"""Tables of runs: read, planned, trained side by side, and written beside the paper's figures."""
