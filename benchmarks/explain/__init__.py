"""How good explanations are, measured on scenes whose events are known."""
