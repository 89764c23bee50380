"""What a model is asked in a test: one task per file.

Each is named in openvclip/config/doors.py; its config keys are in ``keys.py``.
"""
