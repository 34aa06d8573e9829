"""Settings: declared as documented dataclass fields, checked against their types, overridden from a command line."""
