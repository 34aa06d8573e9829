"""The zoo: what weights there are, under which name, with which licence and which numbers."""
