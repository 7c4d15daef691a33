"""Drawn shapes with captions that say all of them: whether a model reads captions can be measured without a doubt."""
