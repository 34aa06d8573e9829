"""One file a page: each has `build(app)`, which lays it out inside its tab and wires it to what is open."""
