"""Published numbers beside ours: rows, the page that shows them, drawings."""
