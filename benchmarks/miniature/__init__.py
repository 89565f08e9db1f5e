"""A small FSD50K in the official layout, made from the development sounds."""
