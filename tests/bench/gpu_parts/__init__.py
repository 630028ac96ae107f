"""Parts of a GPU measurement that end in every possible way."""
