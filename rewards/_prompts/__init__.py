"""A package that reads prompts: what they ask of motion, and the questions for judges."""
