"""Lists of videos and label maps, made from a dataset's own folder and official split files."""
