"""Speed on a cluster, each part against a peer in turns: `name(settings) -> Figure`."""
