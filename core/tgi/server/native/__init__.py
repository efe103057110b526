"""TGI's own routes: `/`, `/generate`, `/generate_stream`, `/tokenize`, `/info`, `/health`."""
