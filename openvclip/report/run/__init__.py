"""The page, plots and files of one run."""
