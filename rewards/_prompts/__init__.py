"""What prompts ask of motion, and the questions that judges are asked."""
