"""How good scores and maps are, predictions as files hold them, and what a model has to beat."""
