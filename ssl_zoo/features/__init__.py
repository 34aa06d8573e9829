"""Features of the images of a split: extracted once, and kept on disk."""
