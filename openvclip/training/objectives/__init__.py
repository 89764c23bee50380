"""What training optimises besides classification: one objective per file.

Each is named in openvclip/config/doors.py; its config keys are in ``keys``.
"""
