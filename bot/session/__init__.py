"""One gateway session, two bots: the stream between the holder and a mirror, and how a session moves along it."""
