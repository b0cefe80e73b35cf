"""What a package outside of teva adds to it, found by entry point; importing it loads nothing."""
