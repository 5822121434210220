"""What a recipe's [data] names: prompts with their references, tables of clips and pairs,
and rounds made of files."""
