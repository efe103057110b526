"""TGI 3 launcher lines, `docker run` lines and Compose files as options of this server."""
