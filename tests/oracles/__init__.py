"""What the library computes fast, written slowly and plainly from the definitions."""
