"""Exported models: what int8 costs."""
