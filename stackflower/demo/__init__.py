"""The browser demo, `stackflower demo`."""
