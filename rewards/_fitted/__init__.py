"""What the reward `fitted` is made of: features of frames, heads, and the folder of a fit."""
