"""The protocols, one file each: its name is the protocol's, and it declares `PROTOCOL`. See `ssl_zoo.protocol`."""
