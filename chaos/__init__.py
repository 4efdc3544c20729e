"""`make chaos`: the proof that executions survive anything. docs/guarantees.md says what is proved."""
