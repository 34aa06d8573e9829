"""From a finished run to a repository on the Hub: files, remote code, model card, upload."""
