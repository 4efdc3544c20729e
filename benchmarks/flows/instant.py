from main.registry import flow


@flow(public=True)
def instant_flow() -> str:
    """Return at once."""
    return "done"
