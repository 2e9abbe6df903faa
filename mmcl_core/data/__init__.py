"""Prepared sets of RGB-D crops on disk, batches of them, and the data sets they are made from."""
