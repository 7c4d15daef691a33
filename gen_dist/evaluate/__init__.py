"""How good a model is, measured without downloaded weights."""
