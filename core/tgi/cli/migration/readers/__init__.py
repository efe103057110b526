"""Readers of commands and files that start TGI 3, for `tgi migrate`."""
