"""Parts of a measurement that end in every way a part can end."""
