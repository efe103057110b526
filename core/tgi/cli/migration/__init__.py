"""Converts the commands and files that start TGI 3 to `tgi serve` commands, for `tgi migrate`."""
