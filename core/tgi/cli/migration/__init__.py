"""Parses TGI 3 commands (launcher, `docker run`, Docker Compose) for `tgi migrate`."""
