"""The page on which people compare clips: the clips, the tasks, the frames and the server."""
