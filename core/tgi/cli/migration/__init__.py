"""Reads the starts of TGI 3 and converts them, for `tgi migrate`."""
