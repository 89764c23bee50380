"""Ways to combine weights: one per file, each named in openvclip/config/doors.py."""
