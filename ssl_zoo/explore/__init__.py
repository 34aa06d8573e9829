"""Looking at what a model thinks belongs together: what the Space shows, computed and kept here."""
