"""What people read: the page, plots and files of one run, and tables across runs."""
