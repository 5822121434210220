"""People in the loop: what people said of clips, its store and files, and rewards fitted to it."""
