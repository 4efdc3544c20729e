"""What `make bench` measures; docs/performance.md says what each figure means."""
